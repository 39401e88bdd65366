//! Shows a download: the licence once, then a bar for each file.

use indicatif::ProgressBar;

use crate::cli::terminal::ui::{Ui, count, human_bytes};
use diffucoder::hub::{Event, HubModel, ModelSpec, Progress, registry};

/// Draws the events of a download.
pub struct Download<'a> {
    ui: &'a Ui,
    licence_note: Option<String>,
    /// A file to take instead, and its size.
    smaller: Option<(String, u64)>,
    bar: Option<ProgressBar>,
    /// Files that are planned, and those of them that are here.
    planned: usize,
    done: usize,
}

impl<'a> Download<'a> {
    /// For the model that `spec` names.
    pub fn new(ui: &'a Ui, spec: &ModelSpec) -> Self {
        let licence_note = match spec {
            ModelSpec::Hub(HubModel { id, .. }) => Some(match registry::in_repo(id.as_str()) {
                Some(known) if known.licence != registry::ON_ITS_PAGE => {
                    format!("the licence of {id}: {}", known.licence)
                }
                _ => format!("{id} has its own licence: see its page on the Hub"),
            }),
            ModelSpec::BuiltIn(_) | ModelSpec::Local(_) => None,
        };
        Self {
            ui,
            licence_note,
            smaller: None,
            bar: None,
            planned: 0,
            done: 0,
        }
    }

    /// Names the conversion of a known model, before the whole of it is downloaded.
    #[must_use]
    pub fn naming_conversion(self, spec: &ModelSpec) -> Self {
        let whole = match spec {
            ModelSpec::Hub(HubModel { id, gguf: None }) => registry::by_hub_id(id.as_str()),
            _ => None,
        };
        Self {
            smaller: whole.and_then(|model| model.conversions().next()),
            ..self
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
                (self.planned, self.done) = (files, 0);
                if let Some(licence) = self.licence_note.take() {
                    self.ui.note(&licence);
                }
                if let Some(note) = self.conversion_note(total_bytes, present_bytes) {
                    self.ui.note(&note);
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
                let name = match self.planned {
                    0 | 1 => file.to_string(),
                    all => format!("{file} ({} of {all})", self.done + 1),
                };
                let bar = self.ui.byte_bar(&name, size_bytes);
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
                    bar.set_message("· checking");
                }
            }
            Event::Done { .. } => {
                self.done += 1;
                self.finish();
            }
        }
    }
}

impl Download<'_> {
    /// Said once, and only while more is missing than the conversion has.
    fn conversion_note(&mut self, total_bytes: u64, present_bytes: u64) -> Option<String> {
        let missing_bytes = total_bytes.saturating_sub(present_bytes);
        let (name, bytes) = self.smaller.take_if(|(_, bytes)| *bytes < missing_bytes)?;
        Some(format!(
            "on a CPU a conversion is as fast, is {} instead of {} and needs less memory: stop \
             this with Ctrl-C and use `--model {name}`",
            human_bytes(bytes),
            human_bytes(total_bytes),
        ))
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_conversion_is_named_before_the_whole_is_downloaded() {
        let ui = Ui::new(true);
        let note = |name: &str, present_bytes| {
            let spec = ModelSpec::parse(name).unwrap();
            let mut download = Download::new(&ui, &spec).naming_conversion(&spec);
            let note = download.conversion_note(15_200_000_000, present_bytes);
            assert_eq!(
                download.conversion_note(15_200_000_000, present_bytes),
                None
            );
            note
        };
        let named = note("diffucoder", 0).unwrap();
        assert!(named.contains("4.80 GB instead of 15.20 GB"), "{named}");
        assert!(named.contains("`--model diffucoder:q4_k_m`"), "{named}");
        assert!(note("apple/DiffuCoder-7B-Instruct", 0).is_some());
        assert_eq!(note("diffucoder", 12_000_000_000), None);
        for other in ["diffucoder:q4_k_m", "dream-coder", "somebody/model", "tiny"] {
            assert_eq!(note(other, 0), None, "{other}");
        }
    }
}
