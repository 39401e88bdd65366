"""Parses or runs one program, within limits, and exits with a number that says whether it went well.

Stdin has {"program", "runs", "seconds", "passed"}: what to do, how much time it has, and the number.
The next one says the same of a program that was run with the network within its reach.

What the system offers holds whatever the program does: limits of resources and, on Linux, a
namespace without network and other processes. The hook behind that stands in for it elsewhere. It
keeps off accidents, and nobody who means to get round it.
"""

import json
import os
import sys
import types

MEMORY_BYTES = 2 << 30
FILE_BYTES = 16 << 20
OPEN_FILES = 64

# linux/sched.h, linux/prctl.h
NEW_USER, NEW_PIDS, NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000
PARENT_DEATH_SIGNAL, SIGKILL = 1, 9


def system_library():
    try:
        import ctypes

        return ctypes.CDLL(None)
    except (ImportError, OSError, TypeError):
        return None


def die_with_parent(library):
    if hasattr(library, "prctl"):
        library.prctl(PARENT_DEATH_SIGNAL, SIGKILL)


def leave(library):
    """Leaves the network and the other processes behind, if the system lets us. What goes on is a
    child of the new namespace's first process: when that ends, so does all that it started."""
    if not hasattr(library, "unshare") or library.unshare(NEW_USER | NEW_PIDS | NEW_NETWORK):
        return False
    for _ in range(2):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 1)
        die_with_parent(library)
    return True


def limit(seconds):
    try:
        import resource
    except ImportError:
        return
    limits = {
        "CPU": seconds + 1,
        "AS": MEMORY_BYTES,
        "FSIZE": FILE_BYTES,
        "NOFILE": OPEN_FILES,
        "NPROC": 0,
        "CORE": 0,
    }
    for name, value in limits.items():
        try:
            which = getattr(resource, "RLIMIT_" + name)
            hard = resource.getrlimit(which)[1]
            value = value if hard == resource.RLIM_INFINITY else min(value, hard)
            resource.setrlimit(which, (value, value))
        except (AttributeError, ValueError, OSError):
            pass  # this system has no such limit


def close_files():
    os.closerange(3, 1 << 16)
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in range(3):
        os.dup2(nothing, standard)


STARTS = ("os.fork", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "os.system")
STARTS += ("os.kill", "pty.", "signal.pthread_kill", "subprocess.")
TALKS = ("socket.connect", "socket.bind", "socket.send", "socket.get", "urllib.", "http.", "ftplib.")
CHANGES = ("os.chmod", "os.chown", "os.chflags", "os.link", "os.mkdir", "os.remove", "os.rename")
CHANGES += ("os.rmdir", "os.setxattr", "os.symlink", "os.truncate", "os.utime", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def refuse(folder):
    """Refuses processes, connections, and changes outside a folder."""
    path_of, join, inside = os.path.realpath, os.fspath, os.path.join(folder, "")

    def is_outside(path):
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False  # an open file
        return not os.path.join(os.fsdecode(path_of(join(path))), "").startswith(inside)

    def hook(event, args):
        if event.startswith(STARTS) or event.startswith(TALKS):
            raise PermissionError(event)
        if event == "open":
            changed = args[:1] if isinstance(args[2], int) and args[2] & WRITING else ()
            changed = [path for path in changed if path != os.devnull]
        else:
            changed = args[:2] if event in CHANGES else ()
        if any(is_outside(path) for path in changed):
            raise PermissionError(event)

    sys.addaudithook(hook)


def main():
    task = json.loads(sys.stdin.buffer.read())
    passed, source = task["passed"], task["program"]
    if not task["runs"]:
        close_files()
        limit(task["seconds"])
        compile(source, "<program>", "exec", 0x400)  # ast.PyCF_ONLY_AST
        os._exit(passed)
    library = system_library()
    die_with_parent(library)
    is_alone = leave(library)
    close_files()
    limit(task["seconds"])
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    program = compile(source, "<program>", "exec")
    refuse(os.path.realpath(os.getcwd()))
    exec(program, module.__dict__)
    os._exit(passed if is_alone else passed + 1)


try:
    main()
except BaseException:  # SystemExit too: tests that were not reached have not passed
    os._exit(1)
