//! GGUF files from a Hub on this machine, by the real binary: which file is taken, and what is said
//! when none is.

use std::path::{Path, PathBuf};
use std::process::Output;

use crate::binary::diffucoder;
use crate::hub_server::{COMMIT, Faults, HubServer, REPO, online, sha256};

/// The built-in model as a GGUF file.
fn gguf(folder: &Path) -> Vec<u8> {
    let path = folder.join("made.gguf");
    let args = ["quantize", "--model", "tiny", "--to", "q8_0", "-o"];
    let made = diffucoder(&args).arg(&path).output().unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    std::fs::read(path).unwrap()
}

fn generate(hub: &HubServer, home: &Path, model: &[&str]) -> Output {
    let rest = ["-p", "def f(x):", "-n", "8", "--seed", "1", "-t", "0.2"];
    let args = [&["generate", "--raw", "--model"][..], model, &rest].concat();
    online(&args, &hub.endpoint, home).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// What a failure says.
fn refusal(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(output.stdout.is_empty());
    text(&output.stderr)
}

#[test]
fn a_file_is_found_by_name_and_by_quantization_and_its_download_resumes() {
    let home = tempfile::tempdir().unwrap();
    let bytes = gguf(home.path());
    let hub = HubServer::start(&[
        ("README.md", b"models"),
        ("Model-7B-q8_0.gguf", &bytes),
        ("Model-7B-Q4_K_M.gguf", b"GGUF, but no more"),
    ]);
    hub.set(Faults {
        cut: Some((300_000, 1)),
        ..Faults::default()
    });
    let first = generate(&hub, home.path(), &[REPO, "--file", "MODEL-7b-Q8_0.GGUF"]);
    let said = text(&first.stderr);
    assert!(first.status.success(), "{said}");
    assert!(
        said.contains("downloading 1 file of weights (Model-7B-q8_0.gguf), "),
        "{said}"
    );
    assert!(said.contains("trying again"), "{said}");
    assert!(hub.transfers().contains(&"bytes=300000-".to_owned()));
    let folder = home.path().join("hub/models--some-one--Model-7B");
    let file: PathBuf = [&folder, Path::new("snapshots"), Path::new(COMMIT)]
        .iter()
        .collect();
    let installed = std::fs::read(file.join("Model-7B-q8_0.gguf")).unwrap();
    assert_eq!(sha256(&installed), sha256(&bytes));

    // The cache answers from now on: by quantization, by name, and offline.
    let asked = hub.seen().len();
    for model in [
        &["some-one/Model-7B:Q8_0"][..],
        &[REPO, "--file", "q8_0"],
        &[REPO, "--file", "Model-7B-q8_0.gguf", "--offline"],
        &[REPO, "--offline"],
    ] {
        let again = generate(&hub, home.path(), model);
        assert!(again.status.success(), "{model:?}: {}", text(&again.stderr));
        assert_eq!(again.stdout, first.stdout, "{model:?}");
    }
    assert_eq!(hub.seen().len(), asked);
    let absent = generate(&hub, home.path(), &[REPO, "--file", "Q4_K_M", "--offline"]);
    assert!(refusal(&absent).contains("is not in the cache"));

    // Another file of the same repository is a question again; this one is broken.
    let other = generate(&hub, home.path(), &[REPO, "--file", "q4_k_m"]);
    let said = refusal(&other);
    assert!(
        said.contains("Model-7B-Q4_K_M.gguf cannot be used"),
        "{said}"
    );
}

#[test]
fn a_damaged_download_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[("m-q8_0.gguf", b"GGUF and some bytes")]);
    hub.set(Faults {
        wrong_bytes: true,
        ..Faults::default()
    });
    let said = refusal(&generate(&hub, home.path(), &["some-one/Model-7B:q8_0"]));
    assert!(said.contains("the download of m-q8_0.gguf"), "{said}");
    let snapshots = home.path().join("hub/models--some-one--Model-7B/snapshots");
    assert!(!snapshots.exists(), "nothing unverified is shown");
}

#[test]
fn a_lone_gguf_file_needs_no_name() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[("config.json", b"{}"), ("m.gguf", &gguf(home.path()))]);
    let output = generate(&hub, home.path(), &[REPO]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let fetched = hub.seen().into_iter().map(|seen| seen.path);
    assert!(fetched.filter(|path| path.contains("config.json")).count() == 0);
}

/// A conversion that somebody asked for by its name is not what the repository's own name means.
#[test]
fn a_pulled_conversion_does_not_stand_for_the_safetensors_beside_it() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[
        ("config.json", b"{}"),
        ("model.safetensors", b""),
        ("m-q8_0.gguf", &gguf(home.path())),
    ]);
    let named = generate(&hub, home.path(), &["some-one/Model-7B:q8_0"]);
    assert!(named.status.success(), "{}", text(&named.stderr));
    let said = refusal(&generate(&hub, home.path(), &[REPO]));
    assert!(said.contains("config.json"), "{said}");
    let offline = generate(&hub, home.path(), &[REPO, "--offline"]);
    assert_eq!(offline.stdout, named.stdout, "{}", text(&offline.stderr));
}

/// `pull` alone asks again.
#[test]
fn a_newer_version_comes_with_pull() {
    let home = tempfile::tempdir().unwrap();
    let bytes = gguf(home.path());
    let hub = HubServer::start(&[("m.gguf", &bytes)]);
    let pull = || {
        let mut command = online(&["pull", REPO], &hub.endpoint, home.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    let revision = || {
        let folder = home.path().join("hub/models--some-one--Model-7B");
        std::fs::read_to_string(folder.join("refs/main")).unwrap()
    };
    pull();
    assert_eq!(revision(), COMMIT);
    let newer = COMMIT.replace('0', "9");
    hub.commit("main", &newer, &[("m.gguf", &bytes), ("README.md", b"new")]);
    assert!(generate(&hub, home.path(), &[REPO]).status.success());
    assert_eq!(revision(), COMMIT);
    let transfers = hub.transfers().len();
    pull();
    assert_eq!(revision(), newer);
    // Without links, as on Windows, they are in the older snapshot alone.
    if cfg!(unix) {
        assert_eq!(hub.transfers().len(), transfers, "the weights are the same");
    }

    // What somebody cut off is downloaded again.
    let snapshots = home.path().join("hub/models--some-one--Model-7B/snapshots");
    let file = snapshots.join(&newer).join("m.gguf");
    let blob = std::fs::canonicalize(&file).unwrap();
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, &bytes[..1000]).unwrap();
    pull();
    assert_eq!(std::fs::read(&file).unwrap(), bytes);

    // One that does not arrive takes nothing away.
    let broken = COMMIT.replace('0', "8");
    let others = [&bytes[..], b"more"].concat();
    hub.commit(
        "main",
        &broken,
        &[("m.gguf", &others), ("README.md", b"newest")],
    );
    hub.set(Faults {
        wrong_bytes: true,
        ..Faults::default()
    });
    let failed = online(&["pull", REPO], &hub.endpoint, home.path()).output();
    assert_eq!(failed.unwrap().status.code(), Some(1));
    assert_eq!(revision(), newer);
    assert!(
        generate(&hub, home.path(), &[REPO, "--offline"])
            .status
            .success()
    );
}

#[cfg(unix)] // elsewhere no variable moves the cache
#[test]
fn what_is_packed_of_a_model_goes_with_it() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[("m.gguf", &gguf(home.path()))]);
    let run = |args: &[&str]| {
        let mut command = online(args, &hub.endpoint, home.path());
        command.env("XDG_CACHE_HOME", home.path());
        command.output().unwrap()
    };
    let packed = home.path().join("diffucoder/packed");
    let files = || std::fs::read_dir(&packed).map_or(0, Iterator::count);
    let made = run(&[
        "generate",
        "--model",
        REPO,
        "--cache-packed",
        "-p",
        "x",
        "-n",
        "1",
    ]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    assert_eq!(files(), 1);
    let said = text(&run(&["rm", REPO]).stderr);
    assert!(said.contains("removed what --cache-packed kept"), "{said}");
    assert_eq!(files(), 0);
}

/// Also what came by a commit's number.
#[test]
fn what_is_here_is_found_offline_by_every_revision_that_was_asked_for() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[("m.gguf", &gguf(home.path()))]);
    for (flags, works) in [
        (&["--revision", COMMIT][..], true),
        (&["--offline"], false),
        (&[], true),
        (&["--offline"], true),
    ] {
        let output = generate(&hub, home.path(), &[&[REPO], flags].concat());
        assert_eq!(
            output.status.success(),
            works,
            "{flags:?} {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn what_there_is_to_choose_from_is_listed() {
    let home = tempfile::tempdir().unwrap();
    let hub = HubServer::start(&[("m.Q8_0.gguf", b"GGUF"), ("m.Q4_K_M.gguf", b"GGUF")]);
    for (model, expected) in [
        (
            &[REPO][..],
            "error: some-one/Model-7B holds 2 GGUF files\n\
             hint: choose one with --file: m.Q4_K_M.gguf, m.Q8_0.gguf\n",
        ),
        (
            &["some-one/Model-7B:q5_k_m"],
            "error: some-one/Model-7B has no single GGUF file q5_k_m\n\
             hint: it has m.Q4_K_M.gguf, m.Q8_0.gguf: give one whole name with --file\n",
        ),
    ] {
        assert_eq!(refusal(&generate(&hub, home.path(), model)), expected);
    }
    assert!(hub.transfers().is_empty());
    let hub = HubServer::start(&[("config.json", b"{}"), ("model.safetensors", b"")]);
    let said = refusal(&generate(
        &hub,
        home.path(),
        &[REPO, "--file", "q8_0", "--revision", COMMIT],
    ));
    assert_eq!(
        said,
        "error: some-one/Model-7B has no GGUF file\nhint: it has other weights: leave out what names a file (:q8_0 or --file); --quant \
         quantizes them while they are loaded\n"
    );
}

#[test]
fn a_file_of_a_model_that_is_not_on_the_hub_is_wrong_usage() {
    for (args, says) in [
        (
            &["tiny", "--file", "x.gguf"][..],
            "--file is for models on the Hub",
        ),
        (&["a/b:q8_0", "--file", "x.gguf"], "name two files"),
        (
            &["diffucoder-base:q4_k_m"],
            "diffucoder quantize --model diffucoder-base",
        ),
    ] {
        let args = [&["generate", "-p", "x", "--model"][..], args].concat();
        let output = diffucoder(&args).output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    }
}
