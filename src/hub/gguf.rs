//! Which files of a repository or folder are the model, where it holds GGUF files.
//!
//! Converters spell the same quantization `-q4_k_m.gguf`, `.Q4_K_M.gguf` or `-Q4_K_M.gguf`, so
//! letter case and the sign before it do not matter. Large models come in parts, which are one
//! model.

use std::collections::BTreeMap;

use super::error::HubError;
use crate::weights::gguf::PartName;

/// A model: its name as one file, and its files.
type Candidate = (String, Vec<String>);

/// The GGUF file, or all parts of one, that `wanted` names among the `files` of `model`: by a
/// name, or by the quantization that the name ends in. Without a wish it is the only one where
/// there are no safetensors, or `None`: safetensors.
///
/// Parts are listed whether they are among `files` or not.
///
/// # Errors
/// `NoSuchGguf` and `ChooseGguf`, which list what there is.
pub(super) fn choose(
    model: &str,
    files: &[String],
    wanted: Option<&str>,
) -> Result<Option<Vec<String>>, HubError> {
    let ggufs = candidates(files);
    let Some(wanted) = wanted else {
        let has_safetensors = files.iter().any(|file| ends_in(file, ".safetensors"));
        if ggufs.is_empty() || has_safetensors {
            return Ok(None);
        }
        return only(ggufs).map(Some).map_err(|ggufs| HubError::ChooseGguf {
            repo: model.to_owned(),
            files: first_files(ggufs),
        });
    };
    let found = by_name(&ggufs, wanted).or_else(|| by_quantization(&ggufs, wanted));
    let found = found.unwrap_or_default();
    only(found).map(Some).map_err(|found| HubError::NoSuchGguf {
        repo: model.to_owned(),
        wanted: wanted.to_owned(),
        files: first_files(if found.is_empty() { ggufs } else { found }),
    })
}

/// All GGUF models among the files, in the order of their names: what quantizing leaves beside
/// them, and the halves of models that see, are none.
pub(super) fn candidates(files: &[String]) -> Vec<Candidate> {
    let mut ggufs = BTreeMap::new();
    for file in files.iter().filter(|file| ends_in(file, ".gguf")) {
        let name = file.rsplit('/').next().unwrap_or(file).to_lowercase();
        if name.ends_with("imatrix.gguf") || name.starts_with("mmproj") {
            continue;
        }
        let (whole, parts) = match PartName::parse(file) {
            Some(part) => (part.whole(), part.all()),
            None => (file.clone(), vec![file.clone()]),
        };
        ggufs.insert(parts, whole);
    }
    ggufs
        .into_iter()
        .map(|(files, name)| (name, files))
        .collect()
}

fn by_name(ggufs: &[Candidate], wanted: &str) -> Option<Vec<Candidate>> {
    let is_it = |name: &String| name.eq_ignore_ascii_case(wanted);
    let has_file = ggufs.iter().filter(|(_, files)| files.iter().any(is_it));
    let has_file: Vec<_> = has_file.cloned().collect();
    let named = ggufs.iter().filter(|(name, _)| is_it(name));
    [has_file, named.cloned().collect()]
        .into_iter()
        .find(|found: &Vec<_>| !found.is_empty())
}

/// Those whose names end in the quantization. Where the rest of one name begins all the others',
/// that one is the plain conversion: `m-q8_0` beside `m-bf16_q8_0` and `m.i1-q8_0`.
fn by_quantization(ggufs: &[Candidate], wanted: &str) -> Option<Vec<Candidate>> {
    let endings = ["-", ".", "_", "/"].map(|sign| format!("{sign}{wanted}.gguf").to_lowercase());
    let rest = |(name, _): &Candidate| {
        let name = format!("/{}", name.to_lowercase());
        let rest = endings.iter().find_map(|ending| name.strip_suffix(ending));
        rest.map(str::to_owned)
    };
    let found: Vec<(String, &Candidate)> = ggufs
        .iter()
        .filter_map(|gguf| Some((rest(gguf)?, gguf)))
        .collect();
    let begins_others = |(rest, _): &&(String, &Candidate)| {
        let same = found.iter().filter(|(other, _)| other == rest).count();
        same == 1 && found.iter().all(|(other, _)| other.starts_with(rest))
    };
    let chosen = match found.iter().find(begins_others) {
        Some((_, plain)) => vec![(*plain).clone()],
        None => found.into_iter().map(|(_, gguf)| gguf.clone()).collect(),
    };
    Some(chosen).filter(|chosen| !chosen.is_empty())
}

fn ends_in(file: &str, ending: &str) -> bool {
    file.to_lowercase().ends_with(ending)
}

fn first_files(ggufs: Vec<Candidate>) -> Vec<String> {
    let files = ggufs.into_iter();
    files
        .filter_map(|(_, files)| files.into_iter().next())
        .collect()
}

/// The files of the only one, or all.
fn only(mut ggufs: Vec<Candidate>) -> Result<Vec<String>, Vec<Candidate>> {
    match ggufs.pop() {
        Some((_, files)) if ggufs.is_empty() => Ok(files),
        last => {
            ggufs.extend(last);
            Err(ggufs)
        }
    }
}

/// Checks that all `chosen` files are among those of a model.
///
/// # Errors
/// `PartsMissing`.
pub(super) fn check_all_there(
    model: &str,
    chosen: &[String],
    files: &[String],
) -> Result<(), HubError> {
    let missing = chosen.iter().filter(|file| !files.contains(file));
    HubError::parts_missing(model, missing.cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(files: &[&str], wanted: Option<&str>) -> Result<Option<Vec<String>>, String> {
        let files: Vec<String> = files.iter().map(ToString::to_string).collect();
        choose("o/r", &files, wanted).map_err(|error| match &error {
            HubError::ChooseGguf { files, .. } | HubError::NoSuchGguf { files, .. } => {
                format!("{error}: {files:?}")
            }
            _ => error.to_string(),
        })
    }

    fn file(name: &str) -> Result<Option<Vec<String>>, String> {
        Ok(Some(vec![name.into()]))
    }

    #[test]
    fn a_wish_is_met_by_name_or_quantization_in_any_case() {
        let files = [
            "README.md",
            "M.Q4_K_M.gguf",
            "M.i1-Q4_K_M.gguf",
            "sub/M-q8_0.gguf",
            "BF16.gguf",
        ];
        for (wanted, expected) in [
            ("m.q4_k_m.GGUF", "M.Q4_K_M.gguf"),
            ("i1-Q4_K_M", "M.i1-Q4_K_M.gguf"),
            ("q4_k_m", "M.Q4_K_M.gguf"),
            ("Q8_0", "sub/M-q8_0.gguf"),
            ("bf16", "BF16.gguf"),
        ] {
            assert_eq!(chosen(&files, Some(wanted)), file(expected));
        }
        // Not the end of a longer name: k_m is no quantization.
        assert!(chosen(&["M-Q4_K_M.gguf"], Some("4_k_m")).is_err());
        assert_eq!(
            chosen(&["model.safetensors"], Some("q8_0")),
            Err("o/r has no GGUF file: []".into())
        );
    }

    #[test]
    fn the_plain_conversion_goes_before_those_with_more_in_their_names() {
        // As in Mungert/DiffuCoder-7B-cpGRPO-GGUF.
        let files = ["bf16_q8_0", "bf16", "f16_q8_0", "iq3_m", "q4_k_m", "q8_0"];
        let files = files.map(|kind| format!("DiffuCoder-7B-cpGRPO-{kind}.gguf"));
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        for (wanted, expected) in [
            ("q8_0", files[5]),
            ("bf16_q8_0", files[0]),
            ("bf16", files[1]),
        ] {
            assert_eq!(chosen(&files, Some(wanted)), file(expected));
        }
        assert_eq!(
            chosen(&[files[0], files[2]], Some("q8_0")),
            Err(format!(
                "o/r has no single GGUF file q8_0: [{:?}, {:?}]",
                files[0], files[2]
            ))
        );
        assert_eq!(chosen(&[files[0], files[4]], Some("q8_0")), file(files[0]));
        // Two models of one name: neither is plainer.
        assert!(chosen(&["a-q8_0.gguf", "a.q8_0.gguf"], Some("q8_0")).is_err());
        assert!(chosen(&["a-q8_0.gguf", "b-q8_0.gguf"], Some("q8_0")).is_err());
    }

    #[test]
    fn without_a_wish_only_a_lone_gguf_file_is_taken() {
        let lone = ["README.md", "M.gguf", "M.imatrix.gguf", "mmproj-M.gguf"];
        assert_eq!(chosen(&lone, None), file("M.gguf"));
        for safetensors in [&["config.json"][..], &["M.gguf", "model.safetensors"]] {
            assert_eq!(chosen(safetensors, None), Ok(None));
        }
        assert_eq!(
            chosen(&["b.gguf", "a.gguf"], None),
            Err("o/r holds 2 GGUF files: [\"a.gguf\", \"b.gguf\"]".into())
        );
    }

    #[test]
    fn parts_are_one_model() {
        let part = |number: usize| format!("Q8_0/m-Q8_0-0000{number}-of-00003.gguf");
        let all = Ok(Some([1, 2, 3].map(part).to_vec()));
        let (one, three) = (part(1), part(3));
        let files = ["m-Q4_K_M.gguf", &three, &one];
        for wanted in ["q8_0", "Q8_0/m-Q8_0.gguf", &part(2)] {
            assert_eq!(chosen(&files, Some(wanted)), all, "{wanted}");
        }
        assert_eq!(chosen(&files[1..], None), all);
        assert_eq!(
            chosen(&files, None),
            Err(format!(
                "o/r holds 2 GGUF files: [{one:?}, \"m-Q4_K_M.gguf\"]"
            ))
        );
        let files = files.map(String::from);
        let error = check_all_there("o/r", &[1, 2, 3].map(part), &files).unwrap_err();
        assert_eq!(
            error.to_string(),
            "o/r lacks Q8_0/m-Q8_0-00002-of-00003.gguf, without which its other parts are no model"
        );
        // A count that is no count of parts makes a file of its own.
        assert_eq!(
            chosen(&["m-00001-of-65535.gguf"], None),
            file("m-00001-of-65535.gguf")
        );
    }
}
