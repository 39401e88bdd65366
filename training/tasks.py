"""Small tasks with tests of our own, and a place to run what a model wrote.

Each task is a prompt (signature and docstring) and tests, one expression each. EVAL is for measuring, PRACTICE for
reinforcement; none of them comes from a published benchmark.
"""
import ast
import re
import resource
import subprocess
import sys
import tempfile
import warnings


def task(signature, doc, *tests):
    return {"prompt": f'def {signature}:\n    """{doc}"""\n', "tests": list(tests)}


EVAL = [
    task("add(a, b)", "Return the sum of a and b.", "add(2, 3) == 5", "add(-1, 1) == 0"),
    task("subtract(a, b)", "Return a minus b.", "subtract(5, 3) == 2", "subtract(1, 4) == -3"),
    task("double(x)", "Return x times two.", "double(4) == 8", "double(-1) == -2"),
    task("is_even(number)", "Return True if the number is even.", "is_even(4) == True", "is_even(7) == False"),
    task("is_empty(items)", "Return True if there are no items.", "is_empty([]) == True", "is_empty([1]) == False"),
    task("first(items)", "Return the first item.", "first([3, 4]) == 3", "first('ab') == 'a'"),
    task("last(items)", "Return the last item.", "last([3, 4]) == 4", "last('ab') == 'b'"),
    task("length(items)", "Return the number of items.", "length([1, 2, 3]) == 3", "length('') == 0"),
    task("to_string(value)", "Convert the value to a string.", "to_string(12) == '12'", "to_string(None) == 'None'"),
    task("to_int(text)", "Convert the text to an integer.", "to_int('12') == 12", "to_int('-3') == -3"),
    task("upper_case(text)", "Return the text in upper case.", "upper_case('ab') == 'AB'", "upper_case('') == ''"),
    task("strip_spaces(text)", "Return the text without spaces at both ends.", "strip_spaces(' a ') == 'a'", "strip_spaces('b') == 'b'"),
    task("split_lines(text)", "Split the text into lines.", "split_lines('a\\nb') == ['a', 'b']", "split_lines('x') == ['x']"),
    task("join_words(words)", "Join the words with a space.", "join_words(['a', 'b']) == 'a b'", "join_words([]) == ''"),
    task("starts_with(text, prefix)", "Return True if text starts with prefix.", "starts_with('abc', 'ab') == True", "starts_with('abc', 'b') == False"),
    task("contains(items, item)", "Return True if item is in items.", "contains([1, 2], 2) == True", "contains([], 1) == False"),
    task("get_value(mapping, key, default=None)", "Return the value of the key, or default if it is missing.",
         "get_value({'a': 1}, 'a') == 1", "get_value({}, 'a', 2) == 2"),
    task("total(numbers)", "Return the sum of the numbers.", "total([1, 2, 3]) == 6", "total([]) == 0"),
    task("largest(numbers)", "Return the largest number.", "largest([1, 5, 2]) == 5", "largest([-2, -3]) == -2"),
    task("absolute(x)", "Return the absolute value of x.", "absolute(-3) == 3", "absolute(2) == 2"),
    task("reverse_list(items)", "Return the items in reverse order as a list.", "reverse_list([1, 2]) == [2, 1]", "reverse_list([]) == []"),
    task("sort_items(items)", "Return a sorted list of the items.", "sort_items([2, 1]) == [1, 2]", "sort_items([]) == []"),
    task("unique(items)", "Return the set of the items.", "unique([1, 1, 2]) == {1, 2}", "unique([]) == set()"),
    task("keys_of(mapping)", "Return a list of the keys of the mapping.", "keys_of({'a': 1}) == ['a']", "keys_of({}) == []"),
    task("mean(values)", "Return the mean of the values.", "mean([1, 3]) == 2", "mean([5]) == 5"),
    task("square(x)", "Return the square of x.", "square(3) == 9", "square(-2) == 4"),
    task("identity(x)", "Return x.", "identity(3) == 3", "identity('a') == 'a'"),
    task("is_none(value)", "Return True if the value is None.", "is_none(None) == True", "is_none(0) == False"),
    task("clamp(value, low, high)", "Return value limited to the range from low to high.", "clamp(5, 0, 3) == 3", "clamp(-1, 0, 3) == 0", "clamp(2, 0, 3) == 2"),
    task("count_item(items, item)", "Count how many times item is in items.", "count_item([1, 2, 1], 1) == 2", "count_item([], 1) == 0"),
]
assert len(EVAL) == 30

PRACTICE = [
    task("multiply(a, b)", "Return the product of a and b.", "multiply(2, 3) == 6", "multiply(0, 4) == 0"),
    task("negate(x)", "Return minus x.", "negate(3) == -3", "negate(-1) == 1"),
    task("is_positive(x)", "Return True if x is positive.", "is_positive(2) == True", "is_positive(-2) == False"),
    task("is_odd(n)", "Return True if n is odd.", "is_odd(3) == True", "is_odd(2) == False"),
    task("second(items)", "Return the second item.", "second([3, 4]) == 4", "second('ab') == 'b'"),
    task("lower(text)", "Return the text in lower case.", "lower('AB') == 'ab'", "lower('') == ''"),
    task("smallest(values)", "Return the smallest value.", "smallest([3, 1]) == 1", "smallest([2]) == 2"),
    task("to_float(text)", "Convert the text to a float.", "to_float('1.5') == 1.5", "to_float('2') == 2.0"),
    task("to_list(items)", "Convert the items to a list.", "to_list((1, 2)) == [1, 2]", "to_list('ab') == ['a', 'b']"),
    task("ends_with(text, suffix)", "Return True if text ends with suffix.", "ends_with('abc', 'bc') == True", "ends_with('abc', 'b') == False"),
    task("has_key(mapping, key)", "Return True if the key is in the mapping.", "has_key({'a': 1}, 'a') == True", "has_key({}, 'a') == False"),
    task("values_of(mapping)", "Return a list of the values of the mapping.", "values_of({'a': 1}) == [1]", "values_of({}) == []"),
    task("concat(a, b)", "Return a followed by b.", "concat('a', 'b') == 'ab'", "concat([1], [2]) == [1, 2]"),
    task("split_words(text)", "Split the text into words.", "split_words('a b') == ['a', 'b']", "split_words('') == []"),
    task("replace_text(text, old, new)", "Return the text with old replaced by new.", "replace_text('aba', 'a', 'c') == 'cbc'", "replace_text('x', 'y', 'z') == 'x'"),
    task("increment(x)", "Return x plus one.", "increment(1) == 2", "increment(-1) == 0"),
    task("half(x)", "Return half of x.", "half(4) == 2", "half(1) == 0.5"),
    task("power(base, exponent)", "Return base to the power of exponent.", "power(2, 3) == 8", "power(5, 0) == 1"),
    task("is_string(value)", "Return True if the value is a string.", "is_string('a') == True", "is_string(1) == False"),
    task("equal(a, b)", "Return True if a and b are equal.", "equal(1, 1) == True", "equal(1, 2) == False"),
]

FORBIDDEN = re.compile(r"\b(import|open|exec|eval|compile|input|breakpoint|globals|getattr|setattr|os|sys|subprocess|shutil)\b|__")


def parses(text):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(text)
        return True
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def limits():
    resource.setrlimit(resource.RLIMIT_CPU, (2, 2))
    resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))


def share_passed(source, tests, seconds=4):
    """Share of the tests that hold, run in a subprocess with limits. Text that could reach outside is not run."""
    if FORBIDDEN.search(source) or not parses(source):
        return 0.0
    checks = "".join(f"try:\n    _n += bool({t})\nexcept Exception:\n    pass\n" for t in tests)
    with tempfile.TemporaryDirectory() as empty:
        try:
            done = subprocess.run([sys.executable, "-I", "-S", "-c", f"{source}\n_n = 0\n{checks}print('\\nPASSED', _n)\n"], cwd=empty, env={},
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, preexec_fn=limits)
        except (subprocess.TimeoutExpired, ValueError, UnicodeError):
            return 0.0
    found = re.search(r"PASSED (\d+)\s*$", done.stdout)
    return int(found.group(1)) / len(tests) if done.returncode == 0 and found else 0.0
