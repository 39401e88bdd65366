//! Which file of a repository is the model, where it holds GGUF files.
//!
//! Converters spell the same quantization `-q4_k_m.gguf`, `.Q4_K_M.gguf` or `-Q4_K_M.gguf`, so
//! letter case and the sign before it do not matter.

use super::error::HubError;

/// The GGUF file that `wanted` names among the repository's `files`: by its name, or by the
/// quantization that its name ends in. Without a wish it is the only one of a repository without
/// safetensors, or `None`: safetensors.
///
/// # Errors
/// `NoSuchGguf` and `ChooseGguf`, which list what there is.
pub(super) fn choose(
    repo: &str,
    files: &[String],
    wanted: Option<&str>,
) -> Result<Option<String>, HubError> {
    let ends_in = |file: &str, ending: &str| file.to_lowercase().ends_with(ending);
    let mut ggufs: Vec<String> = files
        .iter()
        .filter(|file| ends_in(file, ".gguf"))
        .cloned()
        .collect();
    ggufs.sort();
    let Some(wanted) = wanted else {
        if ggufs.is_empty() || files.iter().any(|file| ends_in(file, ".safetensors")) {
            return Ok(None);
        }
        return only(ggufs).map(Some).map_err(|files| HubError::ChooseGguf {
            repo: repo.to_owned(),
            files,
        });
    };
    let by_name = |file: &&String| file.eq_ignore_ascii_case(wanted);
    let endings = ["-", ".", "_"].map(|sign| format!("{sign}{wanted}.gguf").to_lowercase());
    let by_quantization = |file: &&String| endings.iter().any(|ending| ends_in(file, ending));
    let named: Vec<String> = ggufs.iter().filter(by_name).cloned().collect();
    let found = match named.is_empty() {
        true => ggufs.iter().filter(by_quantization).cloned().collect(),
        false => named,
    };
    only(found).map(Some).map_err(|found| HubError::NoSuchGguf {
        repo: repo.to_owned(),
        wanted: wanted.to_owned(),
        files: if found.is_empty() { ggufs } else { found },
    })
}

/// The only item, or all of them.
fn only(mut items: Vec<String>) -> Result<String, Vec<String>> {
    match items.pop() {
        Some(item) if items.is_empty() => Ok(item),
        last => {
            items.extend(last);
            Err(items)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], wanted: Option<&str>) -> Result<Option<String>, String> {
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        choose("o/r", &files, wanted).map_err(|error| match &error {
            HubError::ChooseGguf { files, .. } | HubError::NoSuchGguf { files, .. } => {
                format!("{error}: {files:?}")
            }
            _ => error.to_string(),
        })
    }

    #[test]
    fn a_wish_is_met_by_name_or_quantization_in_any_case() {
        let files = [
            "README.md",
            "M.Q4_K_M.gguf",
            "M.i1-Q4_K_M.gguf",
            "sub/M-q8_0.gguf",
        ];
        for (wanted, expected) in [
            ("m.q4_k_m.GGUF", "M.Q4_K_M.gguf"),
            ("i1-Q4_K_M", "M.i1-Q4_K_M.gguf"),
            ("Q8_0", "sub/M-q8_0.gguf"),
        ] {
            assert_eq!(chosen(&files, Some(wanted)), Ok(Some(expected.into())));
        }
        assert_eq!(
            chosen(&files, Some("q4_k_m")),
            Err("o/r has no single GGUF file q4_k_m: \
                [\"M.Q4_K_M.gguf\", \"M.i1-Q4_K_M.gguf\"]"
                .into())
        );
        // Not the end of a longer name: k_m is no quantization.
        assert!(chosen(&["M-Q4_K_M.gguf"], Some("4_k_m")).is_err());
        assert_eq!(
            chosen(&["model.safetensors"], Some("q8_0")),
            Err("o/r has no GGUF file: []".into())
        );
    }

    #[test]
    fn without_a_wish_only_a_lone_gguf_file_is_taken() {
        let lone = ["README.md", "M.gguf"];
        assert_eq!(chosen(&lone, None), Ok(Some("M.gguf".into())));
        for safetensors in [&["config.json"][..], &["M.gguf", "model.safetensors"]] {
            assert_eq!(chosen(safetensors, None), Ok(None));
        }
        assert_eq!(
            chosen(&["b.gguf", "a.gguf"], None),
            Err("o/r holds 2 GGUF files: [\"a.gguf\", \"b.gguf\"]".into())
        );
    }
}
