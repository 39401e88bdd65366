//! A model at work: texts and holes in, filled texts out.
//!
//! [`Session::open`] reads a model's small files, so that everything that can be wrong with a
//! [`Task`] is found before the weights are touched; [`Session::load`] reads those;
//! [`Session::run`] fills the holes. Between a task and its [`Outcome`] lies a [`Job`]: the same in
//! tokens, which needs a network and nothing else.
//! The crate's first page has an example of [`Session::run`]. With a seed, with the text as it is
//! decided, and for another thread to end:
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use diffucoder::infill::Template;
//! use diffucoder::session::{Conditions, Observer, Session};
//!
//! /// What is decided so far of the only hole.
//! struct Decided(String);
//!
//! impl Observer for Decided {
//!     fn on_text(&mut self, _hole: usize, text: &str) {
//!         self.0.push_str(text);
//!     }
//! }
//!
//! let mut session = Session::open("tiny")?;
//! let file = Template::with_markers(b"with open(path) as <FILL:1>:\n    pass\n".to_vec())?;
//! let task = session.fill(&file, session.open_hole(session.usual_hole()));
//! let mut job = session.prepare(&task)?;
//! job.settings.seed = 1;
//!
//! let cancel = AtomicBool::new(false); // in an `Arc`, where another thread is to set it
//! let mut decided = Decided(String::new());
//! let mut conditions = Conditions {
//!     cancel: Some(&cancel),
//!     ..Conditions::watched(&mut decided)
//! };
//! let outcome = session.run_job(&mut job, &mut conditions)?;
//! let texts: Vec<_> = outcome.holes.iter().map(|hole| &hole.text).collect();
//! assert_eq!(texts, [&decided.0]);
//! let (filled, _) = file.fill(&texts);
//! assert!(filled.ends_with(b":\n    pass\n"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod asking;
mod compute;
mod ends;
mod excerpt;
mod hole;
mod job;
mod length;
mod observer;
mod outcome;
mod recipe;
mod score;
mod seam;
mod task;

use std::sync::Arc;
use std::time::{Duration, Instant};

use candle_core::Device;

pub use crate::diffusion::Mode;
pub use compute::Compute;
pub use ends::{Ends, Function};
pub use excerpt::LeftOut;
pub use hole::{Hole, USUAL_HOLE, USUAL_RESIZING};
pub use job::{Filling, Job, Work};
pub use observer::{Conditions, Observer};
pub use outcome::{Filled, Finish, Outcome};
pub use score::Likelihood;
pub use task::{Segment, Task};

use crate::diffusion::Settings;
use crate::error::{Error, RequestError};
use crate::hub::{HubOptions, ModelSpec, Progress};
use crate::infill::Template;
use crate::model::device::{DeviceChoice, DeviceError};
use crate::model::{Model, OnLoad, Target};
use crate::package::Package;
use observer::Texts;

/// Tokens that a large model is shown on a CPU where nobody says how many. A 7B in four bits reads
/// some 25 tokens a second on each core: here it begins to write after half a minute on two.
pub const CPU_CONTEXT: usize = 1024;
/// Parameters from which a model is large.
const LARGE: usize = 1_000_000_000;

/// A model that is open, and loaded once it is needed.
#[derive(Debug)]
pub struct Session {
    package: Arc<Package>,
    target: Target,
    fell_back: Option<DeviceError>,
    model: Option<Model>,
    opened: Instant,
    load_time: Duration,
}

impl Session {
    /// Opens a model by its name: an alias, an id on the Hub, a folder or a GGUF file. Its small
    /// files are downloaded if need be.
    ///
    /// # Errors
    /// When the model cannot be had or does not fit this machine.
    pub fn open(name: &str) -> Result<Self, Error> {
        let (spec, options) = (ModelSpec::parse(name)?, HubOptions::from_env());
        Self::open_with(&Compute::default(), || {
            Package::open(&spec, &options, &mut ())
        })
    }

    /// The same with everything said: `open` is asked for the model once there is a device for it.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(
        compute: &Compute,
        open: impl FnOnce() -> Result<Package, Error>,
    ) -> Result<Self, Error> {
        let opened = Instant::now();
        let (device, mut fell_back) = compute.device.open()?;
        let is_gpu = !device.is_cpu();
        let package = open()?;
        let target = match compute.target(device, &package) {
            Err(Error::Device(
                error @ (DeviceError::Wrong { .. }
                | DeviceError::Unavailable { .. }
                | DeviceError::TooLarge(_)),
            )) if compute.device == DeviceChoice::Auto && is_gpu => {
                fell_back = Some(error);
                compute.target(Device::Cpu, &package)?
            }
            target => target?,
        };
        Ok(Self {
            opened,
            fell_back,
            ..Self::new(package, target)
        })
    }

    /// A session over a model that is open already.
    pub fn new(package: Package, target: Target) -> Self {
        Self {
            package: Arc::new(package),
            target,
            fell_back: None,
            model: None,
            opened: Instant::now(),
            load_time: Duration::ZERO,
        }
    }

    /// Everything about the model but its weights.
    pub fn package(&self) -> &Arc<Package> {
        &self.package
    }

    /// Where it computes, and how it holds its weights.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Why it computes on the CPU, where it was to choose and a GPU could not be used.
    pub fn fell_back(&self) -> Option<&DeviceError> {
        self.fell_back.as_ref()
    }

    /// Loads the weights, downloading them if need be. Does nothing if they are loaded. `progress`
    /// is told of downloads; `on_load` of the bytes that are loaded, and how many there are.
    ///
    /// # Errors
    /// When the weights cannot be had or are not what they should be.
    pub fn load(
        &mut self,
        progress: &mut dyn Progress,
        on_load: OnLoad<'_>,
    ) -> Result<&mut Model, Error> {
        let model = match self.model.take() {
            Some(model) => model,
            None => {
                let weights = self.package.fetch_weights(progress)?;
                let model = self.package.load(weights, &self.target, on_load)?;
                self.load_time = self.opened.elapsed();
                model
            }
        };
        Ok(self.model.insert(model))
    }

    /// From the opening of the first file to the last weight; 0 before that.
    pub fn load_time(&self) -> Duration {
        self.load_time
    }

    /// Another session over the same weights, with a canvas of its own: the two can run side by
    /// side, each on its thread, and their forward passes are run as one: each waits for those of
    /// all that run, so that none may wait for another's end. Before the weights are loaded there
    /// are none to share, and each loads its own.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            package: Arc::clone(&self.package),
            target: self.target.clone(),
            fell_back: None, // said once
            model: self.model.as_ref().map(Model::beside),
            opened: Instant::now(),
            load_time: self.load_time,
        }
    }

    /// The settings that follow from model, machine and mode; `is_between` where text follows a
    /// hole.
    pub fn settings(&self, mode: Mode, is_between: bool) -> Settings {
        recipe::settings(mode, &self.package, &self.target, is_between)
    }

    /// The holes of a file, those without a length being `open`, in the way of this model: one that
    /// can makes them longer and shorter while it fills them ([`Hole::resizing`]).
    pub fn fill<'t>(&self, template: &Template, open: Hole) -> Task<'t> {
        let mut task = Task::fill(template, open);
        if self.package.infilling.is_some() {
            let longest = open.resizing().most();
            for segment in &mut task.segments {
                if let Segment::Hole(hole) = segment {
                    *hole = match *hole {
                        Hole::Exactly(from) => Hole::Resizing {
                            from,
                            up_to: longest.max(from),
                        },
                        hole => hole.resizing(),
                    };
                }
            }
        }
        task
    }

    /// A hole whose length nobody says, of up to so many tokens: what suits the model.
    pub fn open_hole(&self, up_to: usize) -> Hole {
        match self.package.recipe.lengths.usual {
            Some(tokens) => Hole::Exactly(tokens.min(up_to)),
            None => Hole::Chosen { up_to },
        }
    }

    /// Tokens that a hole between texts has at most where nobody says how many.
    pub fn usual_hole(&self) -> usize {
        match self.package.infilling {
            Some(_) => USUAL_RESIZING,
            None => USUAL_HOLE,
        }
    }

    /// A task in tokens, checked against the model. The weights are not needed.
    ///
    /// # Errors
    /// When it does not fit the model; failures of template and tokenizer.
    pub fn prepare(&self, task: &Task<'_>) -> Result<Job, Error> {
        let context = self.context(task.context);
        task.encode(&self.package, context, |is_between| {
            self.settings(self.package.mode(), is_between)
        })
    }

    /// A task made of a text and what stands round it, such as the words of a question, in tokens:
    /// with as much of the text's end as fits. `prepare` makes the job, within the same `context`,
    /// of the text or of its end. Gives that too.
    ///
    /// # Errors
    /// Those of `prepare`: [`RequestError::TooLong`] when nothing of the text fits.
    pub fn fit<'t>(
        &self,
        text: &'t str,
        context: Option<usize>,
        mut prepare: impl FnMut(&'t str) -> Result<Job, Error>,
    ) -> Result<(Job, &'t str), Error> {
        let tokenizer = &self.package.tokenizer;
        let (mut kept, mut tokens) = excerpt::end_of(tokenizer, text, self.context(context))?;
        loop {
            let excess = match prepare(kept) {
                Ok(job) => {
                    let rest = LeftOut::of(&text[..text.len() - kept.len()]);
                    return Ok((job.with_left_out(rest), kept));
                }
                Err(Error::Request(RequestError::TooLong {
                    given,
                    new,
                    context,
                })) if tokens > 1 => given.saturating_add(new).saturating_sub(context),
                Err(error) => return Err(error),
            };
            // The text may stand there twice: half of the excess is enough to take away, and is
            // taken away again where it is not.
            let most = tokens.saturating_sub(excess.div_ceil(2)).max(1);
            (kept, tokens) = excerpt::end_of(tokenizer, kept, most.min(tokens - 1))?;
        }
    }

    /// Tokens, given and new, that the model is shown of a task that wants so many, or as many as
    /// usual.
    pub fn context(&self, wanted: Option<usize>) -> usize {
        wanted.map_or_else(|| self.usual_context(), |n| n.min(self.longest_context()))
    }

    /// Whether so many new tokens leave room for a text, before there is one to look at.
    ///
    /// # Errors
    /// [`RequestError::TooLong`] if they do not.
    pub fn check_length(&self, new: usize) -> Result<(), RequestError> {
        let context = self.longest_context();
        match new < context {
            true => Ok(()),
            false => Err(RequestError::TooLong {
                given: 1,
                new,
                context,
            }),
        }
    }

    /// Tokens, given and new, that the model can be shown.
    pub fn longest_context(&self) -> usize {
        self.package.config.max_position_embeddings
    }

    /// Tokens that it is shown where nobody says how many: no more than it was trained on, and on a
    /// CPU no more than [`CPU_CONTEXT`] of a large one.
    pub fn usual_context(&self) -> usize {
        let config = &self.package.config;
        let trained = config.family.trained_positions.unwrap_or(usize::MAX);
        let is_slow = self.target.device.is_cpu() && config.parameters() > LARGE;
        let pays_off = if is_slow { CPU_CONTEXT } else { usize::MAX };
        self.longest_context().min(trained).min(pays_off)
    }

    /// Fills the holes of a task.
    ///
    /// # Errors
    /// Those of [`Self::prepare`], [`Self::load`] and [`Self::run_job`].
    pub fn run(&mut self, task: &Task<'_>) -> Result<Outcome, Error> {
        let mut job = self.prepare(task)?;
        self.run_job(&mut job, &mut Conditions::default())
    }

    /// Fills the holes of a job, under conditions. Loads the weights if they are not.
    ///
    /// # Errors
    /// When the network fails, or yields infinities or NaN; those of [`Self::load`].
    pub fn run_job(
        &mut self,
        job: &mut Job,
        conditions: &mut Conditions<'_>,
    ) -> Result<Outcome, Error> {
        let package = Arc::clone(&self.package);
        let model = self.load(&mut (), &mut |_, _| ())?;
        let mut unwatched = ();
        let observer: &mut dyn Observer = match &mut conditions.observer {
            Some(observer) => *observer,
            None => &mut unwatched,
        };
        let ends = job.ends.clone();
        let mut texts = Texts::new(observer, &package.tokenizer, &ends, job.given_bytes());
        let _seat = model.seat(); // sessions beside this one read the weights together
        let filling = job.run(
            model,
            &mut Conditions {
                observer: Some(&mut texts),
                ..*conditions
            },
        )?;
        texts.finish();
        Ok(Outcome::new(filling, job, &package.tokenizer))
    }
}
