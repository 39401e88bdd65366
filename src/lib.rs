//! Masked-diffusion code generation: the library behind the `diffucoder` command.
//!
//! ```
//! use diffucoder::session::{Session, Task};
//!
//! let mut session = Session::open("tiny")?;
//! let outcome = session.run(&Task::complete("def is_empty(items):\n"))?;
//! assert!(outcome.tokens() > 0);
//! # Ok::<(), diffucoder::Error>(())
//! ```
//!
//! # Where to begin
//!
//! | to | there is |
//! |---|---|
//! | continue a text, answer a question, fill holes | [`session::Task`], [`infill::Template`] |
//! | set a seed, a temperature, a way of decoding | [`session::Job::settings`] |
//! | see the text as it is decided, end a run | [`session::Conditions`] |
//! | run tasks side by side over the same weights | [`session::Session::beside`] |
//! | choose a device and a precision, see a download | [`session::Session::open_with`] |
//! | denoise with a network of your own | [`diffusion::generate`] |
//! | know what can be done about an error | [`Error::hint`] |
//!
//! Without default features this library is compiled alone, without what the command line takes
//! (`cli`, and `serve` for its server); `cuda` and `metal` are GPUs.
//!
//! # What is where
//!
//! A folder imports only from those below it, and no two files import each other, directly or round
//! about.
//!
//! | folder | what is in it |
//! |---|---|
//! | [`session`] | a model at work: a task in, what was written out |
//! | [`package`] | a model as it is published: its small files put together, its weights found |
//! | `error` | everything that can go wrong, for those who only pass it on |
//! | [`hub`] | from a model's name to checked local files |
//! | [`chat`] | the chat template |
//! | [`infill`] | a file with holes, and the same file without them |
//! | [`model`] | the network: `arch` says what it is made of, `native` and `tensor` run it |
//! | [`diffusion`] | the denoising loop, which knows a network as a trait and no tensors |
//! | [`weights`] | tensors in safetensors and GGUF files |
//! | [`tokenizer`] | text to token ids and back |
//! | [`kernels`] | products of quantized weights, attention and softmax, for each instruction set |
//! | [`text`], [`atomic`] | places in a text, its language, whether it parses; files whole or not |
//!
//! The command line is not part of the library: `src/cli` belongs to `src/main.rs`, turns flags
//! into tasks and settings, and writes what comes back.
//!
//! # Which way data goes
//!
//! A [`session::Task`] is text and holes. [`session::Session::prepare`] makes a [`session::Job`] of
//! it: the template is applied, text becomes token ids, the sizes are checked. To run the job is to
//! choose the lengths of holes that have none, to lay out a [`diffusion::Canvas`] of ids and masks,
//! and to hand it to [`diffusion::generate`]. That loop asks the [`model::Model`] for logits of the
//! masks of a window, makes a candidate of each row of logits, reveals some, and comes back until
//! nothing that matters is masked. Each step is told to a [`session::Observer`]. What stands in the
//! holes, cut where the text ends and decoded, is the [`session::Outcome`].
//!
//! Weights go the other way round once: [`hub`] finds or downloads files, [`weights`] maps them and
//! checks their headers, [`model`] takes each tensor in the form that suits the machine and packs
//! it for [`kernels`].

#![warn(missing_docs)]

pub mod atomic;
pub mod chat;
pub mod diffusion;
mod error;
pub mod hub;
pub mod infill;
pub mod kernels;
pub mod model;
pub mod package;
pub mod session;
pub mod text;
pub mod tokenizer;
pub mod weights;

pub use error::{Error, RequestError};
