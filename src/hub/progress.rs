//! What a download tells whoever draws it; the library itself writes nothing to the terminal.

/// One step of a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the variants' descriptions name their fields")]
pub enum Event<'a> {
    /// `files` files are about to be downloaded; of their `total_bytes`, `present_bytes` are here already.
    Plan {
        files: usize,
        total_bytes: u64,
        present_bytes: u64,
    },
    /// Another process is downloading the same file; this one waits for it.
    Waiting { file: &'a str },
    /// A transfer begins, `at_bytes` in (more than 0 when it resumes). Comes again after a `Retrying`.
    Start {
        file: &'a str,
        at_bytes: u64,
        size_bytes: u64,
    },
    /// The transfer now stands at `at_bytes`.
    At { file: &'a str, at_bytes: u64 },
    /// The transfer broke off and is tried again.
    Retrying {
        file: &'a str,
        attempt: u32,
        reason: &'a str,
    },
    /// All bytes are here and are being checked.
    Verifying { file: &'a str, size_bytes: u64 },
    /// The file is verified and in the cache.
    Done { file: &'a str },
}

/// Receives the steps of a download.
pub trait Progress {
    /// Called on the thread that asked for the file, for transfers at least a few times a second.
    fn on(&mut self, event: Event<'_>);
}

/// Ignores everything.
impl Progress for () {
    fn on(&mut self, _event: Event<'_>) {}
}
