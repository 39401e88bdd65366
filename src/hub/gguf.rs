//! Which files of a repository or folder are the model, where it holds GGUF files.
//!
//! Converters spell the same quantization `-q4_k_m.gguf`, `.Q4_K_M.gguf` or `-Q4_K_M.gguf`, so
//! letter case and the sign before it do not matter. Large models come in parts, which are one
//! model.

use std::collections::BTreeMap;

use super::error::HubError;
use crate::weights::gguf::PartName;

/// A model among the files.
#[derive(Clone)]
pub(super) struct Candidate {
    /// Its name as one file.
    whole: String,
    /// Its only file, or the first part.
    pub(super) file: String,
}

impl Candidate {
    /// The model that a file is, or is a part of.
    pub(super) fn of(file: &str) -> Self {
        match PartName::parse(file) {
            Some(part) => Self {
                whole: part.whole(),
                file: part.first(),
            },
            None => Self {
                whole: file.to_owned(),
                file: file.to_owned(),
            },
        }
    }

    /// All its files, whether they are there or not.
    pub(super) fn files(&self) -> Vec<String> {
        match PartName::parse(&self.file) {
            Some(part) => part.all(),
            None => vec![self.file.clone()],
        }
    }
}

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
    let repo = || model.to_owned();
    let Some(wanted) = wanted else {
        let has_safetensors = files.iter().any(|file| ends_in(file, ".safetensors"));
        return match &ggufs[..] {
            [] => Ok(None),
            _ if has_safetensors => Ok(None),
            [only] => Ok(Some(only.files())),
            _ => Err(HubError::ChooseGguf {
                repo: repo(),
                files: first_files(&ggufs),
            }),
        };
    };
    let found = match by_name(&ggufs, wanted) {
        found if found.is_empty() => by_quantization(&ggufs, wanted),
        found => found,
    };
    match &found[..] {
        [only] => Ok(Some(only.files())),
        _ => Err(HubError::NoSuchGguf {
            repo: repo(),
            wanted: wanted.to_owned(),
            files: first_files(if found.is_empty() { &ggufs } else { &found }),
        }),
    }
}

/// All GGUF models among the files, in the order of their names: what quantizing leaves beside
/// them, and the halves of models that see, are none.
pub(super) fn candidates(files: &[String]) -> Vec<Candidate> {
    let mut ggufs = BTreeMap::new();
    for file in files.iter().filter(|file| ends_in(file, ".gguf")) {
        let name = file.rsplit('/').next().unwrap_or(file).to_lowercase();
        if !name.ends_with("imatrix.gguf") && !name.starts_with("mmproj") {
            let candidate = Candidate::of(file);
            ggufs.insert(candidate.file.clone(), candidate);
        }
    }
    ggufs.into_values().collect()
}

/// Those with a file of this name; if there are none, those that would have it in one file.
fn by_name(ggufs: &[Candidate], wanted: &str) -> Vec<Candidate> {
    let named = |name: fn(&Candidate) -> &String, wanted: &str| -> Vec<Candidate> {
        let ggufs = ggufs.iter();
        let named = ggufs.filter(|gguf| name(gguf).eq_ignore_ascii_case(wanted));
        named.cloned().collect()
    };
    match named(|gguf| &gguf.file, &Candidate::of(wanted).file) {
        found if found.is_empty() => named(|gguf| &gguf.whole, wanted),
        found => found,
    }
}

/// Those whose names end in the quantization. Where the rest of one name begins all the others',
/// that one is the plain conversion: `m-q8_0` beside `m-bf16_q8_0` and `m.i1-q8_0`.
fn by_quantization(ggufs: &[Candidate], wanted: &str) -> Vec<Candidate> {
    let endings = ["-", ".", "_", "/"].map(|sign| format!("{sign}{wanted}.gguf").to_lowercase());
    let rest = |gguf: &Candidate| {
        let name = format!("/{}", gguf.whole.to_lowercase());
        let rest = endings.iter().find_map(|ending| name.strip_suffix(ending));
        rest.map(str::to_owned)
    };
    let found: Vec<(String, &Candidate)> = ggufs
        .iter()
        .filter_map(|gguf| Some((rest(gguf)?, gguf)))
        .collect();
    // The shortest begins all the others, if one does.
    let plain = found.iter().min_by_key(|(rest, _)| rest.len());
    let is_plain = |(plain, _): &&(String, &Candidate)| {
        let mut others = found.iter().filter(|(rest, _)| rest != plain);
        let is_alone = others.clone().count() + 1 == found.len();
        is_alone && others.all(|(rest, _)| rest.starts_with(plain))
    };
    match plain.filter(is_plain) {
        Some((_, plain)) => vec![(*plain).clone()],
        None => found.into_iter().map(|(_, gguf)| gguf.clone()).collect(),
    }
}

fn ends_in(file: &str, ending: &str) -> bool {
    file.to_lowercase().ends_with(ending)
}

fn first_files(ggufs: &[Candidate]) -> Vec<String> {
    ggufs.iter().map(|gguf| gguf.file.clone()).collect()
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
            "o/r is not whole without Q8_0/m-Q8_0-00002-of-00003.gguf"
        );
        // A count that is no count of parts makes a file of its own.
        assert_eq!(
            chosen(&["m-00001-of-65535.gguf"], None),
            file("m-00001-of-65535.gguf")
        );
    }
}
