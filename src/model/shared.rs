//! Weights that several canvases pass over, each on a thread of its own: where some of them run at
//! the same time, their passes are run as one, so that the weights are read once for all of them.
//!
//! Who runs takes a [`Seat`]. A pass waits until there are as many as seats, and whoever brings the
//! last of them runs all. One of nobody seated is counted like the others: it goes along with them.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use candle_core::{Error, Result};

use super::Rows;
use crate::diffusion::{Asked, Predicted};

/// Loaded weights.
pub(super) trait Network: Send + Sync {
    /// What the passes over one canvas leave behind.
    type State: Send;

    fn state(&self) -> Self::State;

    /// Runs these as one: each computes its rows of its canvas, stores their keys and values, and
    /// gets what it would get alone.
    fn forward(&self, passes: &mut [CanvasPass<Self::State>]) -> Result<()>;
}

/// A pass over one canvas.
pub(super) struct CanvasPass<S> {
    pub state: S,
    pub ids: Vec<u32>,
    pub rows: Rows,
    /// What the sampler asks about them, if it does not need all logits.
    pub asked: Option<Asked>,
    /// The head's output at `rows.outputs`, once it is there. `[outputs, V]`
    pub predicted: Predicted,
}

impl<S> CanvasPass<S> {
    /// The tokens of its rows. `[R]`
    pub fn row_ids(&self) -> impl Iterator<Item = u32> {
        self.rows.indices.iter().map(|&at| self.ids[at])
    }
}

/// Which of these rows, one pass after the other, the head is asked about.
pub(super) fn outputs<'a>(passes: impl Iterator<Item = &'a Rows>) -> Vec<usize> {
    let (mut outputs, mut first) = (Vec::new(), 0);
    for rows in passes {
        outputs.extend(rows.outputs.iter().map(|row| first + row));
        first += rows.indices.len();
    }
    outputs
}

/// A network, and the passes that wait for it.
pub(super) struct Shared<N: Network> {
    pub network: N,
    queue: Mutex<Queue<N::State>>,
    changed: Condvar,
}

struct Queue<S> {
    seated: usize,
    next: u64,
    waiting: Vec<(u64, CanvasPass<S>)>,
    done: Vec<(u64, Result<CanvasPass<S>>)>,
}

impl<N: Network> Shared<N> {
    pub fn new(network: N) -> Self {
        Self {
            network,
            queue: Mutex::new(Queue {
                seated: 0,
                next: 0,
                waiting: Vec::new(),
                done: Vec::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Nothing that a panic can leave behind is half done.
    fn queue(&self) -> MutexGuard<'_, Queue<N::State>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a pass, with those of all others that are seated. Where it fails its state is lost.
    pub fn forward(&self, pass: CanvasPass<N::State>) -> Result<CanvasPass<N::State>> {
        let mut queue = self.queue();
        let ticket = queue.next;
        queue.next += 1;
        queue.waiting.push((ticket, pass));
        loop {
            if let Some(at) = queue.done.iter().position(|(other, _)| *other == ticket) {
                return queue.done.swap_remove(at).1;
            }
            let is_waiting = queue.waiting.iter().any(|(other, _)| *other == ticket);
            if is_waiting && queue.waiting.len() >= queue.seated {
                let passes = std::mem::take(&mut queue.waiting);
                drop(queue);
                self.run(ticket, passes);
                queue = self.queue();
            } else {
                let changed = self.changed.wait(queue);
                queue = changed.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Runs passes by tickets; whoever brought the one with ticket `own` is here.
    fn run(&self, own: u64, passes: Vec<(u64, CanvasPass<N::State>)>) {
        let (tickets, mut passes): (Vec<_>, Vec<_>) = passes.into_iter().unzip();
        let ran = catch_unwind(AssertUnwindSafe(|| self.network.forward(&mut passes)));
        let mut queue = self.queue();
        let failed = |error: String| move |ticket: u64| (ticket, Err(Error::Msg(error.clone())));
        let panic = match ran {
            Ok(Ok(())) => {
                queue
                    .done
                    .extend(tickets.into_iter().zip(passes.into_iter().map(Ok)));
                None
            }
            Ok(Err(error)) => {
                queue
                    .done
                    .extend(tickets.into_iter().map(failed(error.to_string())));
                None
            }
            Err(panic) => {
                let others = tickets.into_iter().filter(|&ticket| ticket != own);
                let error = "a pass that was run together with this one failed";
                queue.done.extend(others.map(failed(error.to_string())));
                Some(panic)
            }
        };
        drop(queue);
        self.changed.notify_all();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// A place among those whose passes are run as one. It is left when this is dropped.
#[must_use]
pub struct Seat(Arc<dyn Seats>);

trait Seats: Send + Sync {
    fn leave(&self);
}

impl<N: Network> Seats for Shared<N> {
    fn leave(&self) {
        self.queue().seated -= 1;
        self.changed.notify_all(); // nobody waits for this one any more
    }
}

impl Seat {
    pub(super) fn at<N: Network + 'static>(shared: &Arc<Shared<N>>) -> Self {
        shared.queue().seated += 1;
        Self(Arc::<Shared<N>>::clone(shared))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    /// Gives each pass the number of those that were run with it, and ends as their ids say.
    struct Counting;

    const FAILS: u32 = 1;
    const PANICS: u32 = 2;

    impl Network for Counting {
        type State = usize; // passes so far

        fn state(&self) -> usize {
            0
        }

        fn forward(&self, passes: &mut [CanvasPass<usize>]) -> Result<()> {
            let has = |id| passes.iter().any(|pass| pass.ids.contains(&id));
            assert!(!has(PANICS));
            if has(FAILS) {
                return Err(Error::msg("as asked"));
            }
            let together = passes.len() as f32;
            for pass in passes {
                pass.state += 1;
                pass.predicted.logits = vec![together];
            }
            Ok(())
        }
    }

    fn pass(state: usize, id: u32) -> CanvasPass<usize> {
        let rows = Rows {
            indices: Vec::new(),
            positions: Vec::new(),
            outputs: Vec::new(),
            seen: Vec::new(),
            reach: 0,
        };
        CanvasPass {
            state,
            ids: vec![id],
            rows,
            asked: None,
            predicted: Predicted::default(),
        }
    }

    #[test]
    fn passes_of_all_that_are_seated_are_one_and_of_others_none() {
        let shared = Arc::new(Shared::new(Counting));
        let alone = shared.forward(pass(0, 0)).unwrap();
        assert_eq!((alone.state, &*alone.predicted.logits), (1, &[1.0][..]));

        // Three begin together and make 10, 20 and 30 passes.
        let seats = [10, 20, 30].map(|passes| (passes, Seat::at(&shared)));
        let together = thread::scope(|scope| {
            let threads = seats.map(|(passes, seat)| {
                let shared = &shared;
                scope.spawn(move || {
                    let mut together = Vec::new();
                    let mut state = 0;
                    for _ in 0..passes {
                        let done = shared.forward(pass(state, 0)).unwrap();
                        state = done.state;
                        together.extend(done.predicted.logits);
                    }
                    drop(seat);
                    assert_eq!(state, passes);
                    together
                })
            });
            threads.map(|thread| thread.join().unwrap())
        });
        for (together, last) in together.iter().zip([3.0, 2.0, 1.0]) {
            assert_eq!((together[0], together[together.len() - 1]), (3.0, last));
            assert!(together.is_sorted_by(|a, b| a >= b));
        }
    }

    /// What fails fails for all that were run with it, and for none that come after.
    #[test]
    fn nobody_waits_for_one_that_failed() {
        let shared = Arc::new(Shared::new(Counting));
        for (id, said) in [(FAILS, "as asked"), (PANICS, "failed")] {
            let all_there = Barrier::new(2);
            let errors = thread::scope(|scope| {
                let threads = [id, 0].map(|id| {
                    let (shared, all_there) = (&shared, &all_there);
                    scope.spawn(move || {
                        let _seat = Seat::at(shared);
                        all_there.wait();
                        let failed = catch_unwind(|| shared.forward(pass(0, id)).err());
                        failed.unwrap_or_else(|_| Some(Error::msg("failed")))
                    })
                });
                threads.map(|thread| thread.join().unwrap().unwrap().to_string())
            });
            assert!(
                errors.iter().all(|error| error.contains(said)),
                "{errors:?}"
            );
            assert_eq!(shared.forward(pass(0, 0)).unwrap().predicted.logits, [1.0]);
        }
    }
}
