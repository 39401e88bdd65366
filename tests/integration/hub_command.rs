//! The real binary against a Hub on this machine.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Output, Stdio};

use crate::binary::diffucoder;
use crate::fixture;
use crate::hub_server::{COMMIT, Faults, HubServer, REPO, online, sha256};

/// A Hub that has the golden model.
pub fn hub() -> HubServer {
    serving(&["golden/model"])
}

/// A Hub that has what is in these folders of fixtures.
fn serving(folders: &[&str]) -> HubServer {
    let folders = folders.iter().map(|folder| fixture(folder));
    let files: Vec<(String, Vec<u8>)> = folders
        .flat_map(|folder| std::fs::read_dir(folder).unwrap())
        .map(|entry| entry.unwrap())
        .map(|entry| {
            (
                entry.file_name().into_string().unwrap(),
                std::fs::read(entry.path()).unwrap(),
            )
        })
        .collect();
    let files: Vec<(&str, &[u8])> = files
        .iter()
        .map(|(name, bytes)| (&**name, &**bytes))
        .collect();
    HubServer::start(&files)
}

fn generate(endpoint: &str, home: &Path, more: &[&str]) -> Output {
    let args = [
        "generate", "--model", REPO, "--raw", "-p", "def f():", "-n", "8", "--seed", "1",
    ];
    let args = [&args[..], more].concat();
    online(&args, endpoint, home).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn a_model_is_downloaded_once_then_works_offline() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let first = generate(&hub.endpoint, home.path(), &[]);
    let said = text(&first.stderr);
    assert!(first.status.success(), "{said}");
    assert_eq!(said.matches("licence").count(), 1, "{said}");
    assert!(
        said.contains("note: downloading 2 files of weights, 699.54 kB"),
        "{said}"
    );

    let requests = hub.seen().len();
    let second = generate(&hub.endpoint, home.path(), &[]);
    assert_eq!(hub.seen().len(), requests, "the second run asked the Hub");
    assert_eq!(text(&second.stderr), "");
    let offline = generate(
        "http://127.0.0.1:1",
        home.path(),
        &["--offline", "--revision", COMMIT],
    );
    assert!(offline.status.success(), "{}", text(&offline.stderr));
    assert_eq!(first.stdout, second.stdout);
    assert_eq!(first.stdout, offline.stdout);

    let folder = fixture("golden/model").display().to_string();
    let local = diffucoder(&[
        "generate", "--model", &folder, "--raw", "-p", "def f():", "-n", "8", "--seed", "1", "-t",
        "0.3",
    ])
    .output()
    .unwrap();
    assert_eq!(first.stdout, local.stdout);
}

#[test]
fn a_cut_download_says_so_and_is_resumed_by_the_next_run() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    hub.set(Faults {
        wrong_bytes: true,
        ..Faults::default()
    });
    let failed = generate(&hub.endpoint, home.path(), &["--quiet"]);
    assert_eq!(failed.status.code(), Some(1));
    let said = text(&failed.stderr);
    assert!(
        said.starts_with("error: ") && said.contains("\nhint: "),
        "{said}"
    );
    assert!(failed.stdout.is_empty());

    // What an earlier run left of a shard is not fetched again.
    let shard = std::fs::read(fixture("golden/model/model-00001-of-00002.safetensors")).unwrap();
    let blobs = home
        .path()
        .join("hub")
        .join(format!("models--{}/blobs", REPO.replace('/', "--")));
    let part = format!("{}.incomplete", sha256(&shard));
    std::fs::write(blobs.join(part), &shard[..20_000]).unwrap();
    hub.set(Faults {
        cut: Some((50_000, 1)),
        ..Faults::default()
    });
    let resumed = generate(&hub.endpoint, home.path(), &[]);
    let said = text(&resumed.stderr);
    assert!(
        resumed.status.success() && said.contains("trying again"),
        "{said}"
    );
    assert!(said.contains("20.00 kB of it already here"), "{said}");
}

#[test]
fn what_another_process_downloads_is_waited_for_with_a_note() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let name = "model-00001-of-00002.safetensors";
    let shard = std::fs::read(fixture("golden/model").join(name)).unwrap();
    let locks = format!("hub/.locks/models--{}", REPO.replace('/', "--"));
    let locks = home.path().join(locks);
    std::fs::create_dir_all(&locks).unwrap();
    let lock = std::fs::File::create(locks.join(format!("{}.lock", sha256(&shard)))).unwrap();
    lock.lock().unwrap();
    let mut pull = online(&["pull", REPO], &hub.endpoint, home.path());
    let mut pull = pull.stderr(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(pull.stderr.take().unwrap()).lines();
    let note = format!("note: another process is downloading {name}: waiting for it");
    assert!(said.any(|line| line.unwrap() == note));
    drop(lock);
    assert!(said.any(|line| line.unwrap().contains("is here, whole")));
    assert!(pull.wait().unwrap().success());
}

/// The adapter comes by a name that it had before.
#[test]
fn an_adapter_is_pulled_with_its_model() {
    let hub = serving(&["golden/model", "golden-lora"]);
    let home = tempfile::tempdir().unwrap();
    let adapter = "some-one/Adapter";
    hub.set(Faults {
        renamed_from: Some(adapter),
        ..Faults::default()
    });
    let pull = ["pull", REPO, "--lora", adapter];
    let pulled = online(&pull, &hub.endpoint, home.path()).output().unwrap();
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let asked = hub.seen().len();
    let folder = fixture("golden-lora").display().to_string();
    let [plain, adapted, local] = [
        &[][..],
        &["--lora", adapter, "--offline"],
        &["--lora", &folder],
    ]
    .map(|flags| generate(&hub.endpoint, home.path(), flags));
    assert!(adapted.status.success(), "{}", text(&adapted.stderr));
    assert_eq!(adapted.stdout, local.stdout);
    assert_ne!(adapted.stdout, plain.stdout);
    assert_eq!(hub.seen().len(), asked, "all of it was there");

    // With a model that is not on the Hub.
    let home = tempfile::tempdir().unwrap();
    let base = fixture("golden/model").display().to_string();
    let pull = ["pull", &base, "--lora", adapter];
    let pulled = online(&pull, &hub.endpoint, home.path()).output().unwrap();
    assert!(pulled.status.success(), "{}", text(&pulled.stderr));
    let flags = ["pull", &base, "--lora", adapter, "--offline"];
    let again = online(&flags, &hub.endpoint, home.path()).output().unwrap();
    assert!(again.status.success(), "{}", text(&again.stderr));
}

#[test]
fn a_gated_model_names_the_licence_page_and_the_token() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    hub.set(Faults {
        token: Some("hf_secret"),
        gated: true,
        ..Faults::default()
    });
    let refused = generate(&hub.endpoint, home.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(
        said.contains("refused access") && said.contains("HF_TOKEN"),
        "{said}"
    );
}

/// A mirror can want a name and a password in its address.
#[test]
fn a_mirror_s_password_is_not_shown() {
    let (hub, home) = (hub(), tempfile::tempdir().unwrap());
    let real = hub.endpoint.replace("http://", "http://alice:s3cret@");
    for (endpoint, model) in [
        ("http://alice:s3cret@127.0.0.1:9", REPO),
        ("ftp://alice:s3cret@127.0.0.1:9", REPO),
        (&*real, "no/where"),
    ] {
        let refused = generate(endpoint, home.path(), &["--model", model]);
        let said = text(&refused.stderr);
        assert!(!refused.status.success());
        assert!(
            !said.contains("s3cret") && said.contains("127.0.0.1"),
            "{said}"
        );
    }
}

#[test]
fn without_a_network_the_hint_is_the_built_in_model() {
    let home = tempfile::tempdir().unwrap();
    let refused = generate("http://127.0.0.1:1", home.path(), &[]);
    assert_eq!(refused.status.code(), Some(1));
    let said = text(&refused.stderr);
    assert!(said.contains("127.0.0.1:1 cannot be reached"), "{said}");
    assert!(
        said.contains("hint: ") && said.contains("--model tiny"),
        "{said}"
    );
}
