//! What the user can do about a failure, in flags: the library does not know their names.

use diffucoder::Error;
use diffucoder::atomic::AtomicError;
use diffucoder::chat::ChatError;
use diffucoder::diffusion::GenerateError;
use diffucoder::hub::registry::converted_in;
use diffucoder::hub::{Foreign, HubError};
use diffucoder::model::device::DeviceError;
use diffucoder::model::quantize::QuantizeError;
use diffucoder::model::storage::{Storage, TooLarge};

/// The hint that names flags, or else the library's own.
pub fn hint(error: &Error) -> Option<String> {
    let with_flags = match error {
        Error::Package { source, .. } => return hint(source),
        Error::Hub(error) => hub(error),
        Error::Device(error) => Some(device(error)),
        // A template that fails is what `--raw` goes round.
        Error::Chat(ChatError::Tokenizer(_) | ChatError::Thread(_) | ChatError::NoStandIn) => None,
        Error::Chat(_) => {
            Some("--raw gives the prompt to the model without the chat template".into())
        }
        Error::Generate(GenerateError::NotFinite { .. }) => {
            Some("the weights are damaged, or --dtype f16 overflows: try f32 or bf16".into())
        }
        Error::Write(AtomicError::Exists { .. })
        | Error::Quantize(QuantizeError::Atomic(AtomicError::Exists { .. })) => {
            Some("give another name, or --force to replace it".into())
        }
        _ => None,
    };
    with_flags.or_else(|| error.hint())
}

fn hub(error: &HubError) -> Option<String> {
    Some(match error {
        HubError::NoConversion { alias } => make_one(alias),
        // The repository may be one that the program itself named.
        HubError::RepoNotFound { repo, .. } | HubError::FileNotFound { repo, .. }
            if converted_in(repo).is_some() =>
        {
            make_one(converted_in(repo)?.alias)
        }
        HubError::NoSuchGguf { repo, files, .. } if converted_in(repo).is_some() => {
            let made = make_one(converted_in(repo)?.alias);
            match files.is_empty() {
                true => made,
                false => format!("it has {}; or {made}", files.join(", ")),
            }
        }
        HubError::NotHereEither { source, .. } => return hub(source),
        HubError::ChooseGguf { files, .. } => {
            format!("choose one with --file: {}", files.join(", "))
        }
        HubError::NoSuchGguf { wanted, files, .. } if files.is_empty() => format!(
            "it has other weights: leave out what names a file (:{wanted} or --file); --quant \
             quantizes them while they are loaded"
        ),
        HubError::NoSuchGguf { files, .. } => {
            let files = files.join(", ");
            format!("it has {files}: give one whole name with --file")
        }
        HubError::Foreign {
            form: Foreign::Adapter,
            ..
        } => "give the model that it was trained on with --model, and this with --lora".into(),
        HubError::RevisionNotFound { .. } => {
            "leave --revision out for the version that `diffucoder pull` gets".into()
        }
        HubError::Unreachable {
            model_is_cached: true,
            ..
        } => "the model is in the cache: add --offline to use it as it is".into(),
        HubError::Unreachable { .. } => {
            "check the network and HTTPS_PROXY; `--model tiny` needs no download".into()
        }
        HubError::NotCached { .. } => {
            "run once without --offline or HF_HUB_OFFLINE to download it; `--model tiny` needs no \
             download"
                .into()
        }
        HubError::NotDownloaded { .. } => "`diffucoder list` shows what is downloaded".into(),
        _ => return None,
    })
}

fn make_one(alias: &str) -> String {
    format!("make one: diffucoder quantize --model {alias} --to q4_k -o {alias}-q4_k.gguf")
}

/// What to do without the device, or on it.
pub fn device(error: &DeviceError) -> String {
    match error {
        DeviceError::NotCompiled { feature, .. } => format!(
            "build with `cargo build --release --features {feature}`, or leave --device at auto"
        ),
        DeviceError::Unavailable { .. } => "--device cpu always works".into(),
        DeviceError::TooLarge(TooLarge {
            storage, fitting, ..
        }) => match fitting {
            None => "--model tiny needs almost nothing".into(),
            Some(form) => {
                let get = match storage {
                    Storage::AsStored => "a GGUF file in",
                    Storage::Dense(_) | Storage::Quantized(_) => "--quant",
                };
                let gigabytes = form.bytes as f64 / 1e9;
                format!("{get} {} takes {gigabytes:.1} GB", form.format)
            }
        },
        DeviceError::Wrong { .. } => {
            "--device cpu always works; a CUDA build computes right on the \
             one architecture it was made for (CUDA_COMPUTE_CAP: 86 RTX 30, 89 RTX 40, 90 H100, \
             120 RTX 50)"
                .into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use clap::CommandFactory;
    use diffucoder::kernels::Format;
    use diffucoder::model::storage::Quantized;
    use proc_macro2::{Delimiter, TokenStream, TokenTree};

    use super::*;

    /// Every `--word` in the string literals of a file, without those of its tests and of foreign
    /// commands such as `cargo …`. Doc comments count where they are: clap makes help of them.
    fn flags_named(tokens: TokenStream, docs: bool, found: &mut BTreeSet<String>) {
        let mut tokens = tokens.into_iter().peekable();
        let mut is_attribute = false;
        while let Some(token) = tokens.next() {
            let follows_hash = std::mem::take(&mut is_attribute);
            match token {
                TokenTree::Punct(punct) => {
                    is_attribute =
                        punct.as_char() == '#' || (follows_hash && punct.as_char() == '!');
                }
                TokenTree::Group(group)
                    if follows_hash && group.to_string().replace(' ', "") == "[cfg(test)]" =>
                {
                    // The item that it stands before, to its body or semicolon.
                    let is_end = |token: &TokenTree| match token {
                        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
                        TokenTree::Punct(punct) => punct.as_char() == ';',
                        _ => false,
                    };
                    tokens.by_ref().find(is_end);
                }
                TokenTree::Group(group) => {
                    let first = group.stream().into_iter().next();
                    let is_doc = follows_hash && first.is_some_and(|t| t.to_string() == "doc");
                    if docs || !is_doc {
                        flags_named(group.stream(), docs, found);
                    }
                }
                TokenTree::Literal(literal) => found.extend(words(&literal.to_string())),
                TokenTree::Ident(_) => {}
            }
        }
    }

    /// The `--word`s of a text.
    fn words(text: &str) -> Vec<String> {
        let spans = text.split('`').enumerate();
        let ours = spans.filter(|(at, span)| at % 2 == 0 || !span.starts_with("cargo "));
        let text: Vec<&str> = ours.map(|(_, span)| span).collect();
        let text = text.join("`").replace("\\n", "\n");
        let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '-';
        text.split(|c| !is_of_word(c))
            .filter_map(|word| word.strip_prefix("--"))
            .filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
            .map(str::to_string)
            .collect()
    }

    fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap();
            match path.is_dir() {
                _ if name == "tests" => {}
                true => sources(&path, found),
                false if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
                false => {}
            }
        }
    }

    #[test]
    fn words_are_found_and_foreign_commands_left_out() {
        assert_eq!(
            words(r#""give\n--at LINE, `--mode fast` or (--top-k)""#),
            ["at", "mode", "top-k"]
        );
        assert!(words("`cargo build --release`, models--owner--name, ---, -n").is_empty());
        let mut found = BTreeSet::new();
        let source = r##"
            //! --a
            #[error("--b {x}")] struct S;
            #[cfg(test)] mod tests { const C: &str = "--c"; }
            fn f() { format!(r#"--d"#); }"##;
        flags_named(source.parse().unwrap(), false, &mut found);
        assert_eq!(found, ["b", "d"].map(String::from).into());
    }

    #[test]
    fn every_flag_that_a_message_names_exists() {
        let mut cli = crate::cli::Cli::command();
        cli.build();
        let commands = std::iter::once(&cli).chain(cli.get_subcommands());
        let flags: BTreeSet<&str> = commands
            .flat_map(|command| command.get_arguments().filter_map(clap::Arg::get_long))
            .collect();
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&src, &mut files);
        let mut seen = 0;
        for file in files {
            let is_cli = file.starts_with(src.join("cli"));
            let mut found = BTreeSet::new();
            let tokens = fs::read_to_string(&file).unwrap().parse().unwrap();
            flags_named(tokens, is_cli, &mut found);
            seen += found.len();
            found.retain(|word| !is_cli || !flags.contains(&**word));
            assert!(found.is_empty(), "{} names {found:?}", file.display());
        }
        assert!(seen > 50, "only {seen} were found");
    }

    #[test]
    fn the_library_s_failures_get_the_flags_that_help() {
        let too_large = |storage, fitting| {
            let error = TooLarge {
                needed_bytes: 28_000_000_000,
                free_bytes: 21_500_000_000,
                storage,
                fitting,
            };
            hint(&DeviceError::from(error).into()).unwrap()
        };
        let fitting = Some(Quantized {
            format: Format::Q8_0,
            bytes: 7_437_500_000,
        });
        let dense = Storage::Quantized(Format::Q4_0);
        assert_eq!(too_large(dense, fitting), "--quant q8_0 takes 7.4 GB");
        assert_eq!(
            too_large(Storage::AsStored, fitting),
            "a GGUF file in q8_0 takes 7.4 GB"
        );
        assert_eq!(too_large(dense, None), "--model tiny needs almost nothing");
        let exists = || AtomicError::Exists { path: "x".into() };
        for error in [
            Error::Write(exists()),
            Error::Quantize(QuantizeError::Atomic(exists())),
        ] {
            assert!(hint(&error).unwrap().contains("--force"));
        }
        assert!(
            hint(&ChatError::Exhausted.into())
                .unwrap()
                .contains("--raw")
        );
        assert_eq!(hint(&ChatError::NoStandIn.into()), None);
        let changed = AtomicError::Changed { path: "x".into() };
        assert_eq!(
            hint(&changed.into()).unwrap(),
            "run it again on the new contents"
        );
    }
}
