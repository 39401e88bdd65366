//! Prompts for models that fill in the middle: markers round what stands before and behind a hole.

/// What families of models have before the prefix, before the suffix, and at the end.
const FAMILIES: [[&str; 3]; 6] = [
    ["<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"], // Qwen, CodeGemma
    ["<fim_prefix>", "<fim_suffix>", "<fim_middle>"],       // StarCoder
    ["<PRE> ", " <SUF>", " <MID>"],                         // CodeLlama
    ["<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"], // DeepSeek
    ["<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"], // GLM
    ["", "<|FIM|>", ""],                                    // Tabby
];

/// Codestral's has the suffix first.
const CODESTRAL: (&str, &str) = ("[SUFFIX]", "[PREFIX]");

/// What stands before and behind the hole, if the prompt has one. What stands before the markers,
/// such as other files, is context, and comes before the prefix.
pub fn parse(prompt: &str) -> Option<(String, String)> {
    if let Some((suffix, prefix)) = prompt
        .strip_prefix(CODESTRAL.0)
        .and_then(|rest| rest.split_once(CODESTRAL.1))
    {
        return Some((prefix.to_string(), suffix.to_string()));
    }
    FAMILIES
        .iter()
        .find_map(|[before_prefix, before_suffix, end]| {
            let (context, rest) = prompt.split_once(before_prefix)?;
            let (prefix, rest) = rest.split_once(before_suffix)?;
            let suffix = rest.strip_suffix(end)?;
            Some(([context, prefix].concat(), suffix.to_string()))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompts(prefix: &str, suffix: &str) -> [String; 7] {
        [
            format!("<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>"),
            format!("<fim_prefix>{prefix}<fim_suffix>{suffix}<fim_middle>"),
            format!("<PRE> {prefix} <SUF>{suffix} <MID>"),
            format!("<｜fim▁begin｜>{prefix}<｜fim▁hole｜>{suffix}<｜fim▁end｜>"),
            format!("<|code_prefix|>{prefix}<|code_suffix|>{suffix}<|code_middle|>"),
            format!("[SUFFIX]{suffix}[PREFIX]{prefix}"),
            format!("{prefix}<|FIM|>{suffix}"),
        ]
    }

    proptest::proptest! {
        #[test]
        fn what_is_put_between_markers_comes_out(
            prefix in "([a-zé \n<>|\\[]|fim|PRE){0,12}",
            suffix in "([a-zé \n<>|\\]]|_prefix|SUF){0,12}",
        ) {
            let texts = Some((prefix.clone(), suffix.clone()));
            for prompt in prompts(&prefix, &suffix) {
                proptest::prop_assert_eq!(&parse(&prompt), &texts, "{}", prompt);
            }
        }
    }

    #[test]
    fn what_stands_before_the_markers_is_context() {
        let texts = parse("import a\n<|fim_prefix|>x = <|fim_suffix|>\n<|fim_middle|>");
        assert_eq!(texts, Some(("import a\nx = ".into(), "\n".into())));
    }

    #[test]
    fn other_prompts_have_no_hole() {
        for prompt in [
            "",
            "def f():",
            "<|fim_prefix|>x",
            "<PRE> a <SUF>b",
            "a <fim_suffix> b",
        ] {
            assert_eq!(parse(prompt), None, "{prompt}");
        }
    }
}
