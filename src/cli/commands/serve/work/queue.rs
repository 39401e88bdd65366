//! Requests on their way to the sessions: so many and no more, in the order in which they come. A
//! client's suggestion takes the place of its older ones.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ask::Ask;
use super::event::{Event, Written};
use super::refusal::Refusal;

/// Who asks: the key that a request brings or, without keys, the machine that it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client(pub String);

/// A place among those that are read, wait, run or are answered.
pub type Place = OwnedSemaphorePermit;

/// Those that wait, and those that run.
pub struct Queue {
    places: Arc<Semaphore>,
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Ticket>,
    running: Vec<Arc<Call>>,
    is_closed: bool,
}

/// What is known of a request to those who may end it.
pub struct Call {
    /// The client whose next request takes the place of this one, if any does.
    replaceable_by: Option<Client>,
    is_cancelled: AtomicBool,
}

impl Call {
    /// Once it is set, no forward pass begins.
    pub fn cancelled(&self) -> &AtomicBool {
        &self.is_cancelled
    }
}

/// A request that waits.
pub struct Ticket {
    pub ask: Ask,
    pub events: UnboundedSender<Event>,
    pub call: Arc<Call>,
}

impl Queue {
    /// For this many requests in all.
    pub fn new(places: usize) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            state: Mutex::default(),
            arrived: Condvar::new(),
        })
    }

    /// A place, to be had before a request's body is read: what that takes is bounded by them.
    ///
    /// # Errors
    /// [`Refusal::busy`] when there is none.
    pub fn enter(&self) -> Result<Place, Refusal> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map_err(|_| Refusal::busy())
    }

    /// Lets a request wait. One for no tokens, with which clients warm up, is answered at once:
    /// there is nothing that could be kept for the request that follows.
    pub fn submit(self: &Arc<Self>, ask: Ask, place: Place, client: Option<Client>) -> Running {
        let (events, receiver) = unbounded_channel();
        let call = Arc::new(Call {
            replaceable_by: client.filter(|_| ask.replaces_older),
            is_cancelled: AtomicBool::new(false),
        });
        let running = Running {
            cancel: Cancel {
                queue: Arc::clone(self),
                call: Arc::clone(&call),
            },
            events: receiver,
            _place: place,
        };
        if ask.most == Some(0) {
            let nothing = (0..ask.forms.len() * ask.count as usize).map(|index| Written {
                index,
                ..Written::default()
            });
            let nothing = nothing.map(|written| Event::Written(Box::new(written)));
            for event in [Event::Begun].into_iter().chain(nothing) {
                let _ = events.send(event); // `running` holds the other end
            }
            return running;
        }
        let mut state = self.lock();
        if call.replaceable_by.is_some() {
            let is_older = |other: &Call| other.replaceable_by == call.replaceable_by;
            state.waiting.retain(|ticket| {
                let is_older = is_older(&ticket.call);
                if is_older {
                    let _ = ticket.events.send(Event::Failed(Refusal::replaced())); // may be gone
                }
                !is_older
            });
            let older = state.running.iter().filter(|call| is_older(call));
            older.for_each(|call| call.is_cancelled.store(true, Ordering::Relaxed));
        }
        state.waiting.push_back(Ticket { ask, events, call });
        self.arrived.notify_one();
        running
    }

    /// The next request, once there is one; `None` when the queue is closed and empty.
    pub fn next(&self) -> Option<Ticket> {
        let mut state = self.lock();
        loop {
            if let Some(ticket) = state.waiting.pop_front() {
                state.running.push(Arc::clone(&ticket.call));
                return Some(ticket);
            }
            if state.is_closed {
                return None;
            }
            let woken = self.arrived.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A request is answered.
    pub fn done(&self, call: &Arc<Call>) {
        self.lock()
            .running
            .retain(|other| !Arc::ptr_eq(other, call));
    }

    /// No request comes any more.
    pub fn close(&self) {
        self.lock().is_closed = true;
        self.arrived.notify_all();
    }

    /// How many wait, and how many run.
    pub fn sizes(&self) -> (usize, usize) {
        let state = self.lock();
        (state.waiting.len(), state.running.len())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends a request from anywhere: it is taken out of the queue, or no forward pass of it begins.
#[derive(Clone)]
pub struct Cancel {
    queue: Arc<Queue>,
    call: Arc<Call>,
}

impl Cancel {
    pub fn cancel(&self) {
        self.call.is_cancelled.store(true, Ordering::Relaxed);
        let mut state = self.queue.lock();
        state
            .waiting
            .retain(|ticket| !Arc::ptr_eq(&ticket.call, &self.call));
    }
}

/// The near end of a request that waits or runs. Where it is dropped nobody waits for the answer.
pub struct Running {
    pub cancel: Cancel,
    pub events: UnboundedReceiver<Event>,
    _place: Place,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
