//! The Hub module against a Hub of its own: cache layout, resuming, verification, tokens, hostile
//! answers.
//!
//! Every test has its own server and cache, and no test touches the environment.

use crate::hub_server::{COMMIT, Faults, HubServer, REPO, git_hash, sha256};
use diffucoder::hub::{
    CaSource, Event, HubError, HubOptions, ModelFile, ModelSpec, Patience, Progress, Snapshot,
    Token, cached,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const SHARD: &str = "model.safetensors";
const TOKEN: &str = "hf_secret";
const CONFIG: &[u8] = br#"{"model_type":"Dream"}"#;

fn weights() -> Vec<u8> {
    (0..30_000_u32)
        .flat_map(|i| (i.wrapping_mul(2_654_435_761) >> 8).to_le_bytes())
        .collect()
}

struct World {
    hub: HubServer,
    home: TempDir,
    options: HubOptions,
}

impl World {
    fn new() -> Self {
        Self::with(HubServer::start(&[
            ("config.json", CONFIG),
            (SHARD, &weights()),
        ]))
    }

    fn with(hub: HubServer) -> Self {
        let home = tempfile::tempdir().unwrap();
        let mut options = HubOptions::new(home.path().join("hub"));
        options.endpoint.clone_from(&hub.endpoint);
        options.patience = Patience {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(20),
            retries: 3,
            backoff: Duration::from_millis(1),
        };
        Self { hub, home, options }
    }

    fn open(&self) -> Result<Snapshot, HubError> {
        Snapshot::open(&ModelSpec::parse(REPO).unwrap(), &[], &self.options)
    }

    fn fetch(&self, progress: &mut dyn Progress) -> Result<PathBuf, HubError> {
        let files = self.open()?.fetch(&[SHARD.to_owned()], progress)?;
        Ok(path(&files[0]).to_owned())
    }

    fn folder(&self) -> PathBuf {
        self.options.cache_dir.join("models--some-one--Model-7B")
    }

    /// Where an interrupted download lies.
    fn part(&self) -> PathBuf {
        let name = format!("{}.incomplete", sha256(&weights()));
        self.folder().join("blobs").join(name)
    }

    fn blobs(&self) -> usize {
        let entries = fs::read_dir(self.folder().join("blobs"));
        entries.map_or(0, Iterator::count)
    }

    fn config(&self) -> Result<Vec<u8>, HubError> {
        let config = self.open()?.required("config.json", &mut ())?;
        Ok(fs::read(path(&config)).unwrap())
    }

    fn leave_part(&self, bytes: &[u8]) {
        fs::create_dir_all(self.part().parent().unwrap()).unwrap();
        fs::write(self.part(), bytes).unwrap();
    }

    fn with_token(mut self) -> Self {
        self.options.token = Token::new(TOKEN);
        self
    }

    /// One whose Hub wants this token, which is known, and has these faults.
    fn wanting(token: Option<&'static str>, faults: Faults) -> Self {
        let mut world = Self::new();
        world.options.token = token.and_then(Token::new);
        world.hub.set(Faults { token, ..faults });
        world
    }
}

fn path(file: &ModelFile) -> &Path {
    match file {
        ModelFile::Path(path) => path,
        ModelFile::Embedded(_) => panic!("embedded"),
    }
}

fn hint(error: &HubError) -> String {
    error.hint().unwrap()
}

/// Keeps events as text.
#[derive(Default)]
struct Record(Vec<String>);

impl Progress for Record {
    fn on(&mut self, event: Event<'_>) {
        if !matches!(event, Event::At { .. }) {
            self.0.push(format!("{event:?}"));
        }
    }
}

/// Lays down a snapshot as Python's huggingface_hub would.
fn python_snapshot(folder: &Path, commit: &str, files: &[(&str, &[u8])]) {
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("snapshots").join(commit)).unwrap();
    for (name, bytes) in files {
        fs::write(folder.join("blobs").join(sha256(bytes)), bytes).unwrap();
        let pointer = folder.join("snapshots").join(commit).join(name);
        #[cfg(unix)]
        std::os::unix::fs::symlink(format!("../../blobs/{}", sha256(bytes)), pointer).unwrap();
        #[cfg(not(unix))]
        fs::write(pointer, bytes).unwrap();
    }
}

#[test]
fn a_download_has_the_layout_that_python_shares() {
    let world = World::new();
    let snapshot = world.open().unwrap();
    assert_eq!(snapshot.commit(), Some(COMMIT));
    assert_eq!(snapshot.describe(), format!("{REPO}@01234567"));
    let config = snapshot.required("config.json", &mut ()).unwrap();
    assert_eq!(fs::read(path(&config)).unwrap(), CONFIG);
    let mut record = Record::default();
    let files = snapshot
        .fetch(&[SHARD.to_owned(), SHARD.to_owned()], &mut record)
        .unwrap();
    assert_eq!(files.len(), 2);

    let folder = world.folder();
    assert_eq!(
        fs::read_to_string(folder.join("refs/main")).unwrap(),
        COMMIT
    );
    assert_eq!(
        path(&files[0]),
        folder.join("snapshots").join(COMMIT).join(SHARD)
    );
    assert_eq!(fs::read(path(&files[0])).unwrap(), weights());
    let mut entries: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    entries.sort();
    assert_eq!(entries, ["blobs", "refs", "snapshots"]);
    assert_eq!(fs::read_dir(folder.join("refs")).unwrap().count(), 1);
    #[cfg(unix)]
    {
        let link = fs::read_link(path(&files[0])).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(sha256(&weights())));
        assert_eq!(fs::read_dir(folder.join("blobs")).unwrap().count(), 2);
    }
    let size = weights().len();
    assert_eq!(
        record.0,
        [
            format!(
                "Plan {{ files: 1, first: \"{SHARD}\", total_bytes: {size}, present_bytes: 0 }}"
            ),
            format!("Start {{ file: \"{SHARD}\", at_bytes: 0, size_bytes: {size} }}"),
            format!("Verifying {{ file: \"{SHARD}\", size_bytes: {size} }}"),
            format!("Done {{ file: \"{SHARD}\" }}"),
        ]
    );
}

#[test]
fn a_second_run_asks_nobody() {
    let mut world = World::new();
    let snapshot = world.open().unwrap();
    snapshot.required("config.json", &mut ()).unwrap();
    assert_eq!(snapshot.optional("tokenizer.json", &mut ()).unwrap(), None);
    snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap();
    let asked = world.hub.seen().len();
    for offline in [false, true] {
        world.options.offline = offline;
        let again = world.open().unwrap();
        again.required("config.json", &mut ()).unwrap();
        assert_eq!(again.optional("tokenizer.json", &mut ()).unwrap(), None);
        again.fetch(&[SHARD.to_owned()], &mut ()).unwrap();
    }
    assert_eq!(world.hub.seen().len(), asked);
}

#[test]
fn a_snapshot_made_by_python_is_used_as_it_is() {
    let mut world = World::new();
    let old = "f".repeat(40);
    python_snapshot(
        &world.folder(),
        &old,
        &[("config.json", b"{}"), (SHARD, b"old")],
    );
    // By commit, offline, without a ref.
    world.options.offline = true;
    world.options.revision = Some(old.clone());
    let files = world
        .open()
        .unwrap()
        .fetch(&[SHARD.to_owned()], &mut ())
        .unwrap();
    assert_eq!(fs::read(path(&files[0])).unwrap(), b"old");
    // By branch, online, although the Hub has moved on.
    world.options.offline = false;
    world.options.revision = None;
    fs::create_dir_all(world.folder().join("refs")).unwrap();
    fs::write(world.folder().join("refs/main"), &old).unwrap();
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), b"old");
    assert!(world.hub.seen().is_empty());
}

#[test]
fn a_blob_of_another_revision_is_not_downloaded_again() {
    let world = World::new();
    python_snapshot(&world.folder(), &"f".repeat(40), &[(SHARD, &weights())]);
    let file = world.fetch(&mut ()).unwrap();
    assert_eq!(fs::read(file).unwrap(), weights());
    #[cfg(unix)]
    assert!(world.hub.transfers().is_empty());
}

#[test]
fn all_files_come_from_the_commit_resolved_first() {
    let world = World::new();
    let snapshot = world.open().unwrap();
    world.hub.commit(
        "main",
        &"b".repeat(40),
        &[("config.json", b"new"), (SHARD, b"new")],
    );
    let files = snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap();
    assert_eq!(fs::read(path(&files[0])).unwrap(), weights());
    // A later run keeps to what the cache has begun.
    assert_eq!(world.config().unwrap(), CONFIG);
}

#[test]
fn revisions_may_be_branches_tags_and_commits() {
    let mut world = World::new();
    world
        .hub
        .commit("refs/pr/1", &"b".repeat(40), &[("config.json", b"pr")]);
    for (revision, content) in [("refs/pr/1", &b"pr"[..]), (COMMIT, CONFIG)] {
        world.options.revision = Some(revision.to_owned());
        assert_eq!(world.config().unwrap(), content, "{revision}");
    }
    assert!(world.folder().join("refs/refs/pr/1").is_file());
    assert!(!world.folder().join("refs").join(COMMIT).exists());
    world.options.revision = Some("v9".to_owned());
    let error = world.open().unwrap_err();
    assert!(matches!(error, HubError::RevisionNotFound { .. }));
    assert_eq!(error.to_string(), format!("{REPO} has no revision v9"));
    for bad in ["../../x", "", "/x", "a\nb"] {
        world.options.revision = Some(bad.to_owned());
        assert!(
            matches!(world.open(), Err(HubError::BadRevision { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn a_cut_connection_is_resumed() {
    let world = World::new();
    world.hub.set(Faults {
        cut: Some((100_000, 1)),
        ..Faults::default()
    });
    let mut record = Record::default();
    let file = world.fetch(&mut record).unwrap();
    assert_eq!(fs::read(file).unwrap(), weights());
    assert!(
        record
            .0
            .iter()
            .any(|event| event.starts_with("Retrying") && event.contains("attempt: 1"))
    );
    assert!(
        record
            .0
            .iter()
            .any(|event| event.starts_with("Start") && event.contains("at_bytes: 100000"))
    );
    assert!(world.hub.transfers().contains(&"bytes=100000-".to_owned()));
}

#[test]
fn a_cut_without_a_length_is_noticed_and_resumed() {
    let world = World::new();
    let faults = Faults {
        cut: Some((100_000, 1)),
        without_length: true,
        ..Faults::default()
    };
    world.hub.set(faults);
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
    assert!(world.hub.transfers().contains(&"bytes=100000-".to_owned()));
}

#[test]
fn a_connection_cut_too_often_is_an_error_and_the_next_run_resumes() {
    let world = World::new();
    world.hub.set(Faults {
        cut: Some((20_000, 1000)),
        ..Faults::default()
    });
    let mut record = Record::default();
    let error = world.fetch(&mut record).unwrap_err();
    let retries = record
        .0
        .iter()
        .filter(|event| event.starts_with("Retrying"));
    assert_eq!(retries.count(), 3, "{:?}", record.0);
    assert_eq!(world.hub.transfers().len(), 4);
    assert!(matches!(error, HubError::BrokenTransfer { .. }), "{error}");
    assert!(
        error
            .to_string()
            .starts_with(&format!("the download of {SHARD} from {REPO} failed: ")),
        "{error}"
    );
    assert!(hint(&error).contains("resumes"));
    let arrived = fs::metadata(world.part()).unwrap().len();
    assert!(arrived >= 20_000, "{arrived}");
    world.hub.set(Faults::default());
    let mut record = Record::default();
    assert_eq!(
        fs::read(world.fetch(&mut record).unwrap()).unwrap(),
        weights()
    );
    assert!(
        record.0[0].contains(&format!("present_bytes: {arrived}")),
        "{}",
        record.0[0]
    );
    assert!(world.hub.transfers().contains(&format!("bytes={arrived}-")));
}

#[test]
fn a_cut_far_behind_the_last_one_does_not_count_as_a_further_failure() {
    let megabytes = |count: usize| count << 20;
    let large: Vec<u8> = (0..megabytes(40)).map(|i| (i / 251) as u8).collect();
    for (cut, is_enough) in [(17, true), (15, false)] {
        let mut world = World::with(HubServer::start(&[
            ("config.json", CONFIG),
            (SHARD, &large),
        ]));
        world.options.patience.retries = 1;
        world.hub.set(Faults {
            cut: Some((megabytes(cut), 2)),
            ..Faults::default()
        });
        let fetched = world.fetch(&mut ());
        assert_eq!(fetched.is_ok(), is_enough, "{fetched:?}");
        if let Ok(file) = fetched {
            assert!(fs::read(file).unwrap() == large);
        }
    }
}

#[test]
fn leftover_parts_of_any_size_do_no_harm() {
    let oversized = [weights(), weights()].concat();
    let wrong = vec![7; weights().len()];
    for (part, transfers) in [
        (weights(), 0),
        (oversized, 1),
        (wrong, 1),
        (vec![7; 1000], 2),
        (vec![], 1),
    ] {
        for token in [None, Some(TOKEN)] {
            let world = World::wanting(token, Faults::default());
            world.leave_part(&part);
            assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
            assert_eq!(
                world.hub.transfers().len(),
                transfers,
                "{} bytes",
                part.len()
            );
        }
    }
}

#[test]
fn a_server_that_ignores_ranges_sends_the_whole_file_once() {
    for token in [None, Some(TOKEN)] {
        let faults = Faults {
            ignores_ranges: true,
            ..Faults::default()
        };
        let world = World::wanting(token, faults);
        world.leave_part(&weights()[..1000]);
        assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
        assert_eq!(world.hub.transfers(), ["bytes=1000-"]);
    }
}

#[test]
fn wrong_bytes_never_reach_the_cache() {
    for token in [None, Some(TOKEN)] {
        let faults = Faults {
            wrong_bytes: true,
            ..Faults::default()
        };
        let world = World::wanting(token, faults);
        let error = world.fetch(&mut ()).unwrap_err();
        assert!(
            error.to_string().ends_with("its checksum is wrong"),
            "{error}"
        );
        assert_eq!(
            world.hub.transfers().len(),
            1,
            "a whole transfer is not repeated"
        );
        assert!(!world.part().exists());
        assert_eq!(world.blobs(), 0);
        assert!(!world.folder().join("snapshots").exists());
    }
}

#[test]
fn a_busy_hub_is_asked_again() {
    let world = World::new();
    let snapshot = world.open().unwrap();
    world.hub.set(Faults {
        failing: Some((503, 2)),
        ..Faults::default()
    });
    snapshot.required("config.json", &mut ()).unwrap();
    // Also for the sizes of the weights, before any of them is begun.
    world.hub.set(Faults {
        failing: Some((503, 2)),
        ..Faults::default()
    });
    snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap();
    fs::remove_dir_all(&world.options.cache_dir).unwrap();
    world.hub.set(Faults {
        failing: Some((429, 99)),
        ..Faults::default()
    });
    let error = snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap_err();
    assert!(
        matches!(error, HubError::ServerStatus { status: 429, .. }),
        "{error}"
    );
    assert!(hint(&error).contains("HF_TOKEN"));
}

#[test]
fn a_transfer_that_stalls_is_given_up() {
    for (stalls, token) in [(true, None), (false, None), (true, Some(TOKEN))] {
        let faults = Faults {
            stalls,
            stalls_half_way: !stalls,
            ..Faults::default()
        };
        let mut world = World::wanting(token, faults);
        world.options.patience.stall = Duration::from_millis(300);
        world.options.patience.retries = 0;
        let error = world.fetch(&mut ()).unwrap_err();
        assert!(matches!(error, HubError::BrokenTransfer { .. }), "{error}");
        if !stalls {
            let arrived = fs::metadata(world.part()).unwrap().len();
            assert_eq!(arrived, weights().len() as u64 / 2);
        }
    }
}

/// Another process, which ends once it is waited for.
struct Other {
    lock: Option<fs::File>,
    /// Where it leaves the whole file; nowhere if it is killed.
    folder: Option<PathBuf>,
}

impl Progress for Other {
    fn on(&mut self, event: Event<'_>) {
        if event == (Event::Waiting { file: SHARD }) {
            if let Some(folder) = &self.folder {
                python_snapshot(folder, COMMIT, &[(SHARD, &weights())]);
            }
            self.lock = None;
        }
    }
}

#[test]
fn what_another_process_downloads_is_waited_for() {
    for is_done in [true, false] {
        let world = World::new();
        let locks = world.options.cache_dir.join(".locks");
        let lock = locks.join("models--some-one--Model-7B");
        let lock = lock.join(format!("{}.lock", sha256(&weights())));
        fs::create_dir_all(lock.parent().unwrap()).unwrap();
        let lock = fs::File::create(lock).unwrap();
        lock.lock().unwrap();
        let mut other = Other {
            lock: Some(lock),
            folder: is_done.then(|| world.folder()),
        };
        let file = world.fetch(&mut other).unwrap();
        assert!(other.lock.is_none(), "it was not waited for");
        assert_eq!(fs::read(file).unwrap(), weights());
        assert_eq!(world.hub.transfers().len(), usize::from(!is_done));
    }
}

#[test]
fn two_at_once_download_once() {
    let world = World::new();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| world.fetch(&mut ())))
            .collect();
        for run in runs {
            assert_eq!(fs::read(run.join().unwrap().unwrap()).unwrap(), weights());
        }
    });
    assert_eq!(world.hub.transfers().len(), 1);
}

#[test]
fn without_a_token_a_gated_model_names_the_licence() {
    let world = World::new();
    world.hub.set(Faults {
        token: Some(TOKEN),
        gated: true,
        ..Faults::default()
    });
    let error = world.fetch(&mut ()).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::AccessRefused {
                status: 403,
                had_token: false,
                ..
            }
        ),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("refused access to {REPO} (status 403)"))
    );
    assert!(
        hint(&error).contains(&format!("{}/{REPO}", world.hub.endpoint))
            && hint(&error).contains("HF_TOKEN")
    );
}

#[test]
fn a_private_model_without_a_token_does_not_exist() {
    let world = World::new();
    world.hub.set(Faults {
        token: Some(TOKEN),
        ..Faults::default()
    });
    let error = world.open().unwrap_err();
    assert!(matches!(error, HubError::RepoNotFound { .. }), "{error}");
    assert!(hint(&error).contains("HF_TOKEN"));
}

#[test]
fn a_wrong_token_is_told_from_none() {
    let world = World::new().with_token();
    world.hub.set(Faults {
        token: Some("another"),
        gated: true,
        ..Faults::default()
    });
    let error = world.fetch(&mut ()).unwrap_err();
    assert!(
        matches!(
            error,
            HubError::AccessRefused {
                had_token: true,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_token_opens_gated_models_and_stays_with_the_hub() {
    for (token, gated) in [(Some(TOKEN), true), (Some(TOKEN), false), (None, false)] {
        let world = World::new().with_token();
        world.hub.set(Faults {
            token,
            gated,
            cut: Some((100_000, 1)),
            ..Faults::default()
        });
        world.config().unwrap();
        assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
        let on_cdn: Vec<_> = world
            .hub
            .seen()
            .into_iter()
            .filter(|seen| seen.on_cdn)
            .collect();
        assert!(on_cdn.len() >= 2);
        assert!(
            on_cdn.iter().all(|seen| seen.authorization.is_none()),
            "{on_cdn:?}"
        );
        let file_with_token = |seen: &crate::hub_server::Seen| {
            seen.path.contains("/resolve/") && seen.authorization.is_some()
        };
        assert_eq!(
            world.hub.seen().iter().any(file_with_token),
            token.is_some()
        );
    }
}

#[test]
fn a_renamed_repository_is_followed() {
    for token in [None, Some(TOKEN)] {
        let faults = Faults {
            renamed_from: Some("old/Name"),
            ..Faults::default()
        };
        let world = World::wanting(token, faults);
        let spec = ModelSpec::parse("old/Name").unwrap();
        let snapshot = Snapshot::open(&spec, &[], &world.options).unwrap();
        snapshot.required("config.json", &mut ()).unwrap();
        let files = snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap();
        assert_eq!(fs::read(path(&files[0])).unwrap(), weights());
        assert!(path(&files[0]).starts_with(world.options.cache_dir.join("models--old--Name")));
    }
}

#[test]
fn absent_repositories_and_files_are_told_apart() {
    let world = World::new();
    let missing =
        Snapshot::open(&ModelSpec::parse("no/where").unwrap(), &[], &world.options).unwrap_err();
    assert_eq!(
        missing.to_string(),
        format!("{} has no model no/where", world.hub.endpoint)
    );
    let snapshot = world.open().unwrap();
    let error = snapshot.required("vocab.json", &mut ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("{REPO} has no file vocab.json at revision main")
    );
    assert!(
        world
            .folder()
            .join(".no_exist")
            .join(COMMIT)
            .join("vocab.json")
            .is_file()
    );
    let error = snapshot
        .fetch(&["gone.safetensors".to_owned()], &mut ())
        .unwrap_err();
    assert!(matches!(error, HubError::FileNotFound { .. }), "{error}");
}

/// A proxy that knows no such address says nothing of the repository, whose list has the file.
#[test]
fn only_the_hub_makes_a_file_absent_for_good() {
    let world = World::with(HubServer::start(&[
        ("config.json", CONFIG),
        ("vocab.json", b"{}"),
        (SHARD, &weights()),
    ]));
    let snapshot = world.open().unwrap();
    world.hub.set(Faults {
        failing: Some((404, 99)),
        ..Faults::default()
    });
    let error = snapshot.required("vocab.json", &mut ()).unwrap_err();
    let by_proxy = matches!(error, HubError::ServerStatus { status: 404, .. });
    assert!(by_proxy, "{error}");
    assert!(!world.folder().join(".no_exist").exists());
    world.hub.set(Faults::default());
    snapshot.required("vocab.json", &mut ()).unwrap();
}

#[test]
fn names_with_spaces_and_folders_are_found() {
    let world = World::new();
    let name = "sub folder/model #1 é.safetensors";
    world.hub.commit("main", COMMIT, &[(name, b"weights")]);
    let files = world
        .open()
        .unwrap()
        .fetch(&[name.to_owned()], &mut ())
        .unwrap();
    assert_eq!(fs::read(path(&files[0])).unwrap(), b"weights");
    assert!(path(&files[0]).ends_with(name));
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    let world = World::new();
    let folder =
        Snapshot::open(&ModelSpec::Local(model_folder(&world)), &[], &world.options).unwrap();
    let snapshot = world.open().unwrap();
    let asked = world.hub.seen().len();
    for name in [
        "../x",
        "/etc/passwd",
        "a/../../x",
        r"..\x",
        "C:x",
        "a\0b",
        "",
    ] {
        for snapshot in [&folder, &snapshot] {
            let fetched = snapshot.fetch(&[SHARD.to_owned(), name.to_owned()], &mut ());
            assert!(
                matches!(fetched, Err(HubError::UnsafeName { .. })),
                "{name:?}"
            );
            assert!(
                matches!(
                    snapshot.optional(name, &mut ()),
                    Err(HubError::UnsafeName { .. })
                ),
                "{name:?}"
            );
        }
    }
    assert_eq!(world.hub.seen().len(), asked);
}

#[test]
fn malformed_answers_are_errors_and_write_nothing() {
    let changes: [(&str, Option<&str>); 11] = [
        ("location", None),
        ("location", Some("")),
        ("location", Some("file:///etc/passwd")),
        ("location", Some("http://[broken")),
        ("x-linked-etag", Some("\"../../../../escaped\"")),
        ("x-linked-etag", Some("W/\"..\"")),
        ("x-linked-etag", Some("\"\"")),
        ("x-linked-etag", Some("\"a\tb\"")),
        ("x-repo-commit", Some("../../../../escaped")),
        ("x-linked-size", Some("-1")),
        ("x-linked-size", Some("huge")),
    ];
    for (name, value) in changes {
        let world = World::new();
        let snapshot = world.open().unwrap();
        let header = Some((name, value.map(str::to_owned)));
        world.hub.set(Faults {
            header,
            ..Faults::default()
        });
        let error = snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap_err();
        assert!(
            matches!(error, HubError::BadAnswer { .. }),
            "{name}: {value:?}: {error:?}"
        );
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(!world.folder().join("blobs").exists());
        assert_eq!(fs::read_dir(world.home.path()).unwrap().count(), 0);
    }
}

#[test]
fn answers_that_are_not_the_hubs_are_errors() {
    for garbage in [
        "",
        "SSH-2.0-OpenSSH\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>",
        "HTTP/1.1 200 OK\r\ncontent-length: 22\r\n\r\n{\"sha\": \"../../../../x\"}",
        "HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 500 Oh\r\ncontent-length: 0\r\n\r\n",
    ] {
        let world = World::new();
        world.hub.set(Faults {
            garbage: Some(garbage),
            ..Faults::default()
        });
        let error = world.open().unwrap_err();
        let expected = matches!(
            error,
            HubError::BadAnswer { .. }
                | HubError::Unreachable { .. }
                | HubError::ServerStatus { .. }
        );
        assert!(expected, "{garbage:?}: {error:?}");
        assert!(!world.folder().exists());
    }
}

#[test]
fn a_disk_too_small_is_noticed_before_the_first_byte() {
    let world = World::new();
    let header = Some(("x-linked-size", Some((1_u64 << 60).to_string())));
    world.hub.set(Faults {
        header,
        ..Faults::default()
    });
    let error = world.fetch(&mut ()).unwrap_err();
    assert!(
        matches!(error, HubError::NotEnoughDisk { needed_bytes, .. } if needed_bytes == 1 << 60),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .ends_with("but the download needs 1152921504.6 GB"),
        "{error}"
    );
    assert!(world.hub.transfers().is_empty());
}

#[test]
fn without_a_network_the_error_knows_what_still_works() {
    let mut world = World::new();
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    world.options.endpoint = format!("http://{closed}");
    let error = world.open().unwrap_err();
    assert_eq!(error.to_string(), format!("{closed} cannot be reached"));
    assert!(matches!(
        error,
        HubError::Unreachable {
            model_is_cached: false,
            ..
        }
    ));
    // With the model in the cache only a file that may exist is out of reach.
    let config: &[u8] = b"{}";
    python_snapshot(
        &world.folder(),
        COMMIT,
        &[
            ("config.json", config),
            ("vocab.json", b"{}"),
            ("merges.txt", b"x"),
            (SHARD, b"w"),
        ],
    );
    world.options.revision = Some(COMMIT.to_owned());
    let snapshot = world.open().unwrap();
    let error = snapshot.optional("tokenizer.json", &mut ()).unwrap_err();
    assert!(matches!(
        error,
        HubError::Unreachable {
            model_is_cached: true,
            ..
        }
    ));
    world.options.offline = true;
    assert_eq!(
        world
            .open()
            .unwrap()
            .optional("tokenizer.json", &mut ())
            .unwrap(),
        None
    );
}

#[test]
fn offline_says_what_is_missing() {
    let mut world = World::new();
    world.options.offline = true;
    let error = world.open().unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }));
    world.options.offline = false;
    world.config().unwrap();
    world.options.offline = true;
    let error = world.fetch(&mut ()).unwrap_err();
    assert!(error.to_string().contains(SHARD), "{error}");
    let error = world
        .open()
        .unwrap()
        .required("vocab.json", &mut ())
        .unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
}

#[test]
fn an_endpoint_must_be_an_address() {
    let mut world = World::new();
    world.options.endpoint = "huggingface.co".to_owned();
    assert!(matches!(world.open(), Err(HubError::BadEndpoint { .. })));
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let mut world = World::new();
    let file = world.home.path().join("a file");
    fs::write(&file, "").unwrap();
    world.options.cache_dir = file.join("hub");
    let snapshot = world.open().unwrap();
    let error = snapshot.required("config.json", &mut ()).unwrap_err();
    assert!(matches!(error, HubError::Cache { .. }), "{error}");
    assert!(error.to_string().contains("a file") && hint(&error).contains("HF_HOME"));
}

fn model_folder(world: &World) -> PathBuf {
    let folder = world.home.path().join("model");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), "{}").unwrap();
    fs::write(folder.join(SHARD), "w").unwrap();
    folder
}

#[test]
fn a_folder_is_a_model_if_it_has_a_config() {
    let world = World::new();
    let open = |path: PathBuf| Snapshot::open(&ModelSpec::Local(path), &[], &world.options);
    let folder = model_folder(&world);
    let snapshot = open(folder.clone()).unwrap();
    assert_eq!(snapshot.describe(), folder.display().to_string());
    assert_eq!(snapshot.optional("tokenizer.json", &mut ()).unwrap(), None);
    assert_eq!(
        snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap(),
        [ModelFile::Path(folder.join(SHARD))]
    );
    let error = snapshot.required("vocab.json", &mut ()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("the model {} has no vocab.json", folder.display())
    );
    assert!(matches!(
        open(folder.join("missing")),
        Err(HubError::FolderNotFound { .. })
    ));
    assert!(matches!(
        open(folder.join("config.json")),
        Err(HubError::NotAFolder { .. })
    ));
    assert!(matches!(
        open(world.home.path().to_owned()),
        Err(HubError::NotInFolder { .. })
    ));
}

#[test]
fn a_folder_is_a_model_if_it_has_one_gguf_file() {
    let world = World::new();
    let folder = world.home.path().join("ggufs");
    fs::create_dir_all(&folder).unwrap();
    let write = |name: &str| fs::write(folder.join(name), "x").unwrap();
    let open = || Snapshot::open(&ModelSpec::Local(folder.clone()), &[], &world.options);
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|n| n.to_string()).collect() };

    write("m-q8_0.gguf");
    write("other.safetensors");
    let chosen = open().unwrap().gguf(None).unwrap();
    assert_eq!(
        chosen,
        Some(names(&["m-q8_0.gguf"])),
        "no config.json: safetensors are no model"
    );
    write("m-q4_0.gguf");
    write("a-q4_0.gguf");
    let all = ["a-q4_0.gguf", "m-q4_0.gguf", "m-q8_0.gguf"];
    assert_eq!(open().unwrap().folder_files(".gguf"), names(&all));
    let error = open().unwrap().gguf(None).unwrap_err();
    match &error {
        HubError::ChooseInFolder { folder: of, files } => {
            assert_eq!((of, files), (&folder, &names(&all)));
        }
        other => panic!("{other}"),
    }
    write("config.json");
    assert_eq!(
        open().unwrap().gguf(None).unwrap(),
        None,
        "safetensors before GGUF"
    );
    write("b-q6_k-00001-of-00002.gguf");
    let error = open().unwrap().gguf(Some("q6_k")).unwrap_err();
    assert!(matches!(error, HubError::PartsMissing { .. }), "{error}");
    write("b-q6_k-00002-of-00002.gguf");
    let parts = ["b-q6_k-00001-of-00002.gguf", "b-q6_k-00002-of-00002.gguf"];
    assert_eq!(
        open().unwrap().gguf(Some("q6_k")).unwrap(),
        Some(names(&parts))
    );
}

#[test]
fn a_form_that_is_not_read_is_named_wherever_the_model_is() {
    let hub = [("config.json", CONFIG), ("pytorch_model.bin", b"x")];
    let world = World::with(HubServer::start(&hub));
    let folder = world.home.path().join("pickled");
    fs::create_dir_all(&folder).unwrap();
    for (name, bytes) in hub {
        fs::write(folder.join(name), bytes).unwrap();
    }
    let local = Snapshot::open(&ModelSpec::Local(folder), &[], &world.options);
    for snapshot in [world.open(), local] {
        let snapshot = snapshot.unwrap();
        let error = snapshot.required(SHARD, &mut ()).unwrap_err();
        let explained = snapshot.explain(error);
        assert!(matches!(explained, HubError::Foreign { .. }), "{explained}");
        let other = HubError::NotAFolder { path: "x".into() };
        let other = snapshot.explain(other);
        assert!(matches!(other, HubError::NotAFolder { .. }), "{other}");
    }
}

#[test]
fn the_built_in_model_needs_neither_disk_nor_network() {
    let options = HubOptions::new("/dev/null/nowhere");
    let spec = ModelSpec::parse("tiny").unwrap();
    let snapshot =
        Snapshot::open(&spec, &[("config.json", b"{}"), (SHARD, b"w")], &options).unwrap();
    assert_eq!(snapshot.describe(), "tiny (built in)");
    assert_eq!(
        snapshot.fetch(&[SHARD.to_owned()], &mut ()).unwrap(),
        [ModelFile::Embedded(b"w")]
    );
    assert_eq!(snapshot.optional("vocab.json", &mut ()).unwrap(), None);
    assert!(matches!(
        snapshot.required("vocab.json", &mut ()),
        Err(HubError::NotInFolder { .. })
    ));
}

#[test]
fn the_cache_is_listed() {
    let world = World::new();
    let root = &world.options.cache_dir;
    assert!(cached(&world.options).unwrap().is_empty());
    let index = br#"{"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}"#;
    let index: (&str, &[u8]) = ("model.safetensors.index.json", index);
    let config: (&str, &[u8]) = ("config.json", b"{}");
    let tokenizer: (&str, &[u8]) = ("tokenizer.json", b"{}");
    let base = root.join("models--apple--DiffuCoder-7B-Base");
    python_snapshot(&base, COMMIT, &[config, index, ("1.safetensors", b"one")]);
    python_snapshot(
        &root.join("models--other--m"),
        COMMIT,
        &[config, tokenizer, (SHARD, b"w")],
    );
    // A run could not have it without a network.
    python_snapshot(
        &root.join("models--other--without-tokenizer"),
        COMMIT,
        &[config, (SHARD, b"w")],
    );
    python_snapshot(
        &root.join("models--other--m-GGUF"),
        COMMIT,
        &[("m.Q8_0.gguf", b"GGUF")],
    );
    python_snapshot(
        &root.join("models--other--no-config"),
        COMMIT,
        &[("README.md", b"")],
    );
    python_snapshot(&root.join("datasets--other--d"), COMMIT, &[config]);
    world.hub.set(Faults {
        cut: Some((20_000, 1000)),
        ..Faults::default()
    });
    world.config().unwrap();
    world.fetch(&mut ()).unwrap_err();
    let models = cached(&world.options).unwrap();
    let summary: Vec<_> = models
        .iter()
        .map(|m| (m.id.as_str(), m.is_complete()))
        .collect();
    assert_eq!(
        summary,
        [
            ("apple/DiffuCoder-7B-Base", false),
            ("other/m", true),
            ("other/m-GGUF", true),
            ("other/without-tokenizer", false),
            (REPO, false)
        ]
    );
    let gguf = models[2].gguf("q8_0").map(|file| (&*file.name, file.bytes));
    assert_eq!(gguf, Some(("m.Q8_0.gguf", 4)));
    assert!(models[4].bytes > 20_000);
    #[cfg(unix)]
    assert_eq!(models[0].bytes, 2 + 60 + 3);
    let complete: [(&str, &[u8]); 5] = [
        config,
        tokenizer,
        index,
        ("1.safetensors", b"one"),
        ("2.safetensors", b"two"),
    ];
    fs::remove_dir_all(&base).unwrap();
    python_snapshot(&base, COMMIT, &complete);
    assert!(cached(&world.options).unwrap()[0].is_complete());
}

#[test]
fn a_server_that_refuses_ranges_is_asked_for_the_whole() {
    let world = World::new();
    world.hub.set(Faults {
        refuses_ranges: true,
        ..Faults::default()
    });
    world.leave_part(&weights()[..1000]);
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
    assert_eq!(world.hub.transfers(), ["bytes=1000-", "whole"]);
}

#[test]
fn what_a_server_compresses_unasked_is_unpacked() {
    for (encoding, ignores_ranges) in [("gzip", false), ("GZIP", true), ("x-gzip", true)] {
        let world = World::new();
        world.hub.set(Faults {
            encoding: Some(encoding),
            ignores_ranges,
            ..Faults::default()
        });
        world.leave_part(&weights()[..1000]);
        assert_eq!(world.config().unwrap(), CONFIG);
        assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
    }
    let world = World::new();
    world.hub.set(Faults {
        encoding: Some("br"),
        ..Faults::default()
    });
    let error = world.config().unwrap_err();
    assert!(matches!(error, HubError::BadAnswer { .. }), "{error:?}");
    assert!(error.to_string().contains("br"), "{error}");
    assert_eq!(world.blobs(), 0);
}

#[test]
fn no_length_is_needed_where_a_checksum_is() {
    for without_length in [false, true] {
        let world = World::new();
        world.hub.set(Faults {
            chunked: true,
            without_length,
            header: Some(("x-linked-size", None)),
            ..Faults::default()
        });
        assert_eq!(world.config().unwrap(), CONFIG);
        assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
    }
    let world = World::new();
    world.hub.set(Faults {
        chunked: true,
        header: Some(("etag", Some("\"5e-1a2b\"".to_owned()))),
        ..Faults::default()
    });
    let error = world.config().unwrap_err();
    assert!(
        error.to_string().contains("neither a size nor a checksum"),
        "{error}"
    );
}

#[test]
fn a_cut_without_any_size_is_noticed() {
    let world = World::new();
    world.hub.set(Faults {
        without_length: true,
        cut: Some((100_000, 1)),
        header: Some(("x-linked-size", None)),
        ..Faults::default()
    });
    let error = world.fetch(&mut ()).unwrap_err();
    assert!(
        error.to_string().ends_with("its checksum is wrong"),
        "{error}"
    );
    assert_eq!(world.blobs(), 0);
}

#[test]
fn a_size_other_than_the_declared_one_is_refused_before_the_first_byte() {
    let world = World::new();
    world.hub.set(Faults {
        header: Some(("x-linked-size", Some("119999".to_owned()))),
        ..Faults::default()
    });
    let error = world.fetch(&mut ()).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("120000 bytes instead of 119999"),
        "{error}"
    );
    assert!(!world.part().exists());
}

#[test]
fn an_empty_file_is_a_file() {
    let world = World::with(HubServer::start(&[("config.json", b""), (SHARD, b"")]));
    assert_eq!(world.config().unwrap(), b"");
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), b"");
}

#[test]
fn a_hub_without_head_is_asked_otherwise() {
    let world = World::new();
    world.hub.set(Faults {
        no_head: true,
        ..Faults::default()
    });
    assert_eq!(world.config().unwrap(), CONFIG);
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
}

#[test]
fn text_files_are_checked_by_their_git_hash() {
    let etags = [
        (git_hash(CONFIG), true),
        (git_hash(CONFIG).to_uppercase(), true),
        (git_hash(br#"{"model_type":"dream"}"#), false),
        // SHA-1 of the bytes alone, as some mirrors have it.
        ("bb12d206596aee73810a854277e2cdff89feb18c".to_owned(), true),
        // Not a hash: the length has to do.
        ("5e1a-22.gz".to_owned(), true),
    ];
    for (etag, is_right) in etags {
        for form in ["\"{}\"", "W/\"{}\"", "{}", "W/{}"] {
            let world = World::new();
            world.hub.set(Faults {
                header: Some(("etag", Some(form.replace("{}", &etag)))),
                ..Faults::default()
            });
            match world.config() {
                Ok(bytes) => assert!(is_right && bytes == CONFIG, "{etag}"),
                Err(error) => {
                    assert!(!is_right, "{etag}: {error}");
                    assert!(
                        error.to_string().ends_with("its checksum is wrong"),
                        "{error}"
                    );
                }
            }
            // On Windows it is where the snapshot has it, unless the user may make links.
            if cfg!(unix) {
                let blob = world.folder().join("blobs").join(&etag);
                assert_eq!(blob.exists(), is_right, "{etag}");
                assert_eq!(world.blobs(), usize::from(is_right));
            }
        }
    }
}

#[test]
fn redirects_within_the_hub_are_followed() {
    for status in [301, 302, 303, 307, 308] {
        for location in ["{hub}/real{path}", "/real{path}"] {
            let world = World::new().with_token();
            world.hub.set(Faults {
                moved: Some((status, location)),
                token: Some(TOKEN),
                ..Faults::default()
            });
            assert_eq!(world.config().unwrap(), CONFIG);
            assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
            let seen = world.hub.seen();
            assert!(
                seen.iter()
                    .all(|seen| !seen.on_cdn || seen.authorization.is_none())
            );
        }
    }
    // The address of the bytes may leave out what it has in common with its own.
    let world = World::new();
    let cdn = HubServer::start(&[(SHARD, &weights())]);
    let (_, host) = cdn.endpoint.split_once(':').unwrap();
    let location = format!("{host}/{REPO}/resolve/{COMMIT}/{SHARD}");
    world.hub.set(Faults {
        header: Some(("location", Some(location))),
        ..Faults::default()
    });
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
}

#[test]
fn redirects_that_lead_nowhere_say_where() {
    for (location, message) in [
        ("{cdn}/login?next=secret", "/login, which is not the Hub"),
        ("{path}", ", in a circle"),
        ("{hub}{path}", ", in a circle"),
    ] {
        let world = World::new().with_token();
        let snapshot = world.open().unwrap();
        let asked = world.hub.seen().len();
        world.hub.set(Faults {
            moved: Some((307, location)),
            ..Faults::default()
        });
        for error in [
            world.open().map(drop),
            snapshot.required("config.json", &mut ()).map(drop),
            snapshot.fetch(&[SHARD.to_owned()], &mut ()).map(drop),
        ] {
            let error = error.unwrap_err();
            assert!(matches!(error, HubError::Redirected { .. }), "{error:?}");
            assert!(error.to_string().ends_with(message), "{error}");
            assert!(hint(&error).contains("HF_ENDPOINT"));
        }
        assert!(
            world.hub.seen()[asked..]
                .iter()
                .all(|seen| !seen.path.contains("login"))
        );
    }
}

#[test]
fn the_token_is_not_shown_to_the_host_of_a_redirect() {
    let elsewhere = HubServer::start(&[(SHARD, &weights())]);
    let world = World::new().with_token();
    let location = format!("{}/{REPO}/resolve/{COMMIT}/{SHARD}", elsewhere.endpoint);
    world.hub.set(Faults {
        token: Some(TOKEN),
        header: Some(("location", Some(location))),
        ..Faults::default()
    });
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());
    assert!(!elsewhere.seen().is_empty());
    assert!(
        elsewhere
            .seen()
            .iter()
            .all(|seen| seen.authorization.is_none())
    );
}

#[test]
fn an_authority_of_ones_own_is_trusted_if_a_variable_names_it() {
    let folder = crate::fixture("hub");
    let source = |variable, path: &Path| CaSource {
        variable,
        paths: vec![path.to_owned()],
    };
    let mut world = World::with(HubServer::start_tls(&[
        ("config.json", CONFIG),
        (SHARD, &weights()),
    ]));
    let error = world.open().unwrap_err();
    assert!(matches!(error, HubError::Untrusted { .. }), "{error:?}");
    for variable in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"] {
        assert!(hint(&error).contains(variable), "{}", hint(&error));
    }
    for path in [folder.join("ca.pem"), folder.clone()] {
        world.options.ca_sources = vec![source("SSL_CERT_FILE", &path)];
        assert_eq!(world.config().unwrap(), CONFIG);
    }
    assert_eq!(fs::read(world.fetch(&mut ()).unwrap()).unwrap(), weights());

    let missing = folder.join("missing.pem");
    for path in [
        &missing,
        &folder.join("server.key"),
        &folder.join("certificates.sh"),
    ] {
        world.options.ca_sources = vec![source("CURL_CA_BUNDLE", path)];
        world.options.revision = Some("refs/pr/9".to_owned());
        let error = world.open().unwrap_err();
        assert!(matches!(error, HubError::CaSource { .. }), "{error:?}");
        assert!(
            error.to_string().starts_with("CURL_CA_BUNDLE names "),
            "{error}"
        );
        assert!(hint(&error).contains("CURL_CA_BUNDLE"));
    }
    // One good place of several is enough.
    world.options.ca_sources = vec![CaSource {
        variable: "SSL_CERT_DIR",
        paths: vec![missing, folder],
    }];
    let error = world.open().unwrap_err();
    assert!(
        matches!(error, HubError::RevisionNotFound { .. }),
        "{error:?}"
    );
}

#[test]
fn the_bytes_of_a_large_file_may_be_on_the_hubs_own_host() {
    let copy = "bytes.bin";
    let files: [(&str, &[u8]); 2] = [(SHARD, &weights()), (copy, &weights())];
    let world = World::with(HubServer::start(&files));
    world.hub.set(Faults {
        header: Some(("location", Some(format!("{copy}?signed=1")))),
        ..Faults::default()
    });
    let file = world.fetch(&mut ()).unwrap();
    assert_eq!(fs::read(&file).unwrap(), weights());
    assert!(world.hub.transfers().is_empty());
    #[cfg(unix)]
    assert!(fs::read_link(file).unwrap().ends_with(sha256(&weights())));
}
