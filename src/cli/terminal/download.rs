//! Shows a download: the licence once, then a bar for each file.

use indicatif::ProgressBar;

use crate::cli::terminal::ui::{Ui, count, human_bytes};
use diffucoder::hub::{Event, HubModel, ModelSpec, Progress, registry};

/// Draws the events of a download.
pub struct Download<'a> {
    ui: &'a Ui,
    licence_note: Option<String>,
    bar: Option<ProgressBar>,
}

impl<'a> Download<'a> {
    /// For the model that `spec` names.
    pub fn new(ui: &'a Ui, spec: &ModelSpec) -> Self {
        let licence_note = match spec {
            ModelSpec::Hub(HubModel { id, .. }) => Some(match registry::in_repo(id.as_str()) {
                Some(known) => format!("{id} is licensed {}", known.licence),
                None => format!("{id} has its own licence: see its page on the Hub"),
            }),
            ModelSpec::BuiltIn(_) | ModelSpec::Local(_) => None,
        };
        Self {
            ui,
            licence_note,
            bar: None,
        }
    }
}

impl Progress for Download<'_> {
    fn on(&mut self, event: Event<'_>) {
        match event {
            Event::Plan {
                files,
                first,
                total_bytes,
                present_bytes,
            } => {
                if let Some(licence) = self.licence_note.take() {
                    self.ui.note(&licence);
                }
                let resumed = match present_bytes {
                    0 => String::new(),
                    present => format!(", {} of it already here", human_bytes(present)),
                };
                // Of several GGUF files one was chosen.
                let name = match first.to_lowercase().ends_with(".gguf") {
                    true => format!(" ({first}{})", if files > 1 { ", …" } else { "" }),
                    false => String::new(),
                };
                self.ui.note(&format!(
                    "downloading {} of weights{name}, {}{resumed}",
                    count(files, "file"),
                    human_bytes(total_bytes)
                ));
            }
            Event::Waiting { file } => {
                self.ui.note(&format!(
                    "another process is downloading {file}: waiting for it"
                ));
            }
            Event::Start {
                file,
                at_bytes,
                size_bytes,
            } => {
                let bar = self.ui.byte_bar(file, size_bytes);
                bar.set_position(at_bytes);
                bar.reset_eta(); // or the bytes that were there already count as speed
                self.bar = Some(bar);
            }
            Event::At { at_bytes, .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_position(at_bytes);
                }
            }
            Event::Retrying { file, reason, .. } => {
                self.finish();
                self.ui.note(&format!("{file}: {reason}; trying again"));
            }
            Event::Verifying { .. } => {
                if let Some(bar) = &self.bar {
                    bar.set_message("checking");
                }
            }
            Event::Done { .. } => self.finish(),
        }
    }
}

impl Download<'_> {
    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
