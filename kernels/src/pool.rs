//! The engine's threads. A caller hands out numbered jobs, takes part in them itself, and goes on when all are done.
//!
//! Helpers look for the next jobs for a while before they sleep, so that the operations of a step follow one another
//! without a wake-up each; where threads outnumber cores, or callers get in each other's way, they sleep at once. One
//! caller at a time has the helpers. Another one, as with several workers in one process, does its jobs alone
//! rather than wait; so does a job that has jobs of its own.
//!
//! One word holds the state, so that a helper joins only jobs that are still being handed out, and a caller knows when
//! the last helper has left them:
//!
//! ```text
//! bits 63..32  number of the round     31..1  helpers in it     0  whether helpers may join
//! ```
#![allow(unsafe_code, reason = "jobs borrow from their caller, which no thread's lifetime can tell the compiler")]

use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// What a job that panicked said.
type Panic = Box<dyn Any + Send>;

const OPEN: u64 = 1;
const HELPER: u64 = 2;
const ROUND: u64 = 1 << 32;
/// How often a thread looks before it sleeps: some tens of microseconds, more than lie between two operations of a step.
const LOOKS: u32 = 1000;
/// Rounds without looking after two callers got in each other's way.
const CROWDED_ROUNDS: usize = 256;

/// Threads that share the jobs of large operations. Dropping it ends them.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: AtomicU64,
    /// Whether a caller has the helpers.
    taken: AtomicBool,
    /// The jobs of the round. Written by the caller that has the helpers, while none may join.
    jobs: Slot,
    /// The next job to take.
    next: AtomicUsize,
    /// Whether threads are few enough to look for a while.
    looks: bool,
    /// Rounds that are left without looking.
    crowded: AtomicUsize,
    sleepers: AtomicUsize,
    /// Whether a caller sleeps until the last helper leaves.
    caller_sleeps: AtomicBool,
    ends: AtomicBool,
    lock: Mutex<()>,
    opened: Condvar,
    left: Condvar,
    /// What the first job that panicked on a helper said.
    panic: Mutex<Option<Panic>>,
}

/// Jobs of a caller: what to do with each number below `count`.
#[derive(Clone, Copy)]
struct Jobs {
    run: *const (dyn Fn(usize) + Sync),
    count: usize,
}

struct Slot(std::cell::UnsafeCell<Option<Jobs>>);

// SAFETY: the cell is written only by the caller that has the helpers while none is in the round or may join it, and
// read only by helpers that are in the round; `state` orders the two. What `run` points to is Sync.
unsafe impl Sync for Slot {}
// SAFETY: as above.
unsafe impl Send for Slot {}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

impl Pool {
    /// `threads` in all, the caller included; one a core if none is given.
    ///
    /// # Errors
    /// The system gives no more threads.
    pub fn new(threads: Option<NonZeroUsize>) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let threads = threads.unwrap_or(cores);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            taken: AtomicBool::new(false),
            jobs: Slot(None.into()),
            next: AtomicUsize::new(0),
            looks: threads <= cores,
            crowded: AtomicUsize::new(0),
            sleepers: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            ends: AtomicBool::new(false),
            lock: Mutex::new(()),
            opened: Condvar::new(),
            left: Condvar::new(),
            panic: Mutex::new(None),
        });
        // Dropped on an error, it ends the threads that there are.
        let mut pool = Self { shared, helpers: Vec::new() };
        for number in 1..threads.get() {
            let shared = pool.shared.clone();
            let helper = std::thread::Builder::new().name(format!("kernel-{number}"));
            pool.helpers.push(helper.spawn(move || shared.help())?);
        }
        Ok(pool)
    }

    /// Threads that jobs run on, the caller included.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Whether helpers would have to be woken.
    pub(crate) fn sleeps(&self) -> bool {
        self.shared.sleepers.load(SeqCst) == self.helpers.len()
    }

    /// Calls `job` once with every number below `count`, in any order, on any thread.
    pub(crate) fn run(&self, count: usize, job: &(dyn Fn(usize) + Sync)) {
        let shared = &*self.shared;
        if count < 2 || self.helpers.is_empty() || shared.taken.swap(true, SeqCst) {
            if count > 1 && !self.helpers.is_empty() {
                shared.crowded.store(CROWDED_ROUNDS, SeqCst);
            }
            (0..count).for_each(job);
            return;
        }
        // Ends the round also when a job panics here, before `job` goes out of scope.
        let round = Round { shared };
        shared.open(Jobs { run: erase(job), count });
        while let Some(number) = shared.take(count) {
            job(number);
        }
        if let Some(panic) = round.end() {
            resume_unwind(panic);
        }
    }

    /// Gives every chunk of `items` to one job; the last chunk may be shorter.
    pub(crate) fn chunks<T: Send>(&self, items: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync) {
        let (start, length, chunk) = (Start(items.as_mut_ptr()), items.len(), chunk.max(1));
        self.run(length.div_ceil(chunk), &|number| {
            let from = number * chunk;
            let start = start.at(from);
            // SAFETY: `run` gives every number below the count once, so that the chunks are disjoint parts of `items`,
            // which is borrowed exclusively until it returns; T may be sent to the thread that has the chunk.
            f(number, unsafe { std::slice::from_raw_parts_mut(start, chunk.min(length - from)) });
        });
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.ends.store(true, SeqCst);
        drop(lock(&self.shared.lock));
        self.shared.opened.notify_all();
        for helper in self.helpers.drain(..) {
            // Panics of jobs are caught, so there is nothing to hear of.
            let _ = helper.join();
        }
    }
}

/// The start of items that threads share out among them.
struct Start<T>(*mut T);

// SAFETY: it only computes addresses; who forms a reference from one says why that is sound.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    fn at(&self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// A round that this caller began.
struct Round<'a> {
    shared: &'a Shared,
}

impl Round<'_> {
    /// Waits until no helper is in it, and gives what a job that panicked on one of them said.
    fn end(self) -> Option<Panic> {
        let panic = self.over();
        std::mem::forget(self);
        panic
    }

    fn over(&self) -> Option<Panic> {
        self.shared.close();
        // Before anybody else may have the helpers: it belongs to this caller.
        let panic = lock(&self.shared.panic).take();
        self.shared.taken.store(false, SeqCst);
        panic
    }
}

impl Drop for Round<'_> {
    /// A job panicked here. That panic goes on; another one is forgotten, since its own drop might panic.
    fn drop(&mut self) {
        std::mem::forget(self.over());
    }
}

/// Forgets how long jobs live. What it gives may be called until the round that they belong to has been closed.
fn erase<'a>(job: &'a (dyn Fn(usize) + Sync + 'a)) -> *const (dyn Fn(usize) + Sync) {
    let job: *const (dyn Fn(usize) + Sync + 'a) = job;
    // SAFETY: the two differ in a lifetime alone, and nothing is read here.
    unsafe { std::mem::transmute::<*const (dyn Fn(usize) + Sync + 'a), *const (dyn Fn(usize) + Sync)>(job) }
}

impl Shared {
    /// Lets helpers join a new round.
    fn open(&self, jobs: Jobs) {
        let count = jobs.count;
        // SAFETY: this caller has the helpers, the last round is closed, and none is in it.
        unsafe { *self.jobs.0.get() = Some(jobs) };
        self.next.store(0, SeqCst);
        // Only the caller that has the helpers changes the number of the round.
        let round = (self.state.load(SeqCst) >> 32).wrapping_add(1) << 32;
        self.state.store(round | OPEN, SeqCst);
        let crowded = self.crowded.load(SeqCst);
        self.crowded.store(crowded.saturating_sub(1), SeqCst);
        // A helper counts itself as a sleeper before it looks for the last time.
        let sleepers = self.sleepers.load(SeqCst);
        if sleepers > 0 {
            drop(lock(&self.lock));
            (0..sleepers.min(count - 1)).for_each(|_| self.opened.notify_one());
        }
    }

    /// Lets no helper join any more and waits until those in the round have left it.
    fn close(&self) {
        // Also after a panic: what was not taken is not done.
        self.next.store(usize::MAX / 2, SeqCst);
        self.state.fetch_and(!OPEN, SeqCst);
        let done = || self.state.load(SeqCst) & (ROUND - 1) == 0;
        if self.look(done) {
            return;
        }
        let mut guard = lock(&self.lock);
        self.caller_sleeps.store(true, SeqCst);
        while !done() {
            guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, SeqCst);
    }

    /// The number of a job that nobody has taken.
    fn take(&self, count: usize) -> Option<usize> {
        let number = self.next.fetch_add(1, SeqCst);
        (number < count).then_some(number)
    }

    /// Looks for a while whether something is so, where that disturbs nobody.
    fn look(&self, mut so: impl FnMut() -> bool) -> bool {
        let looks = if self.looks && self.crowded.load(SeqCst) == 0 { LOOKS } else { 1 };
        (0..looks).any(|_| {
            std::hint::spin_loop();
            so()
        })
    }

    /// A helper's life.
    fn help(&self) {
        let mut last = 0;
        while !self.ends.load(SeqCst) {
            if let Some((round, jobs)) = self.join(last) {
                last = round;
                self.do_jobs(jobs);
                self.leave();
            } else if !self.look(|| self.is_new(last)) {
                self.sleep(last);
            }
        }
    }

    /// Whether there is a round that a helper has not been in, or no more will come.
    fn is_new(&self, last: u64) -> bool {
        let state = self.state.load(SeqCst);
        (state & OPEN != 0 && state >> 32 != last) || self.ends.load(SeqCst)
    }

    /// Joins a round other than `last`, if one is open.
    fn join(&self, last: u64) -> Option<(u64, Jobs)> {
        let mut state = self.state.load(SeqCst);
        while state & OPEN != 0 && state >> 32 != last {
            match self.state.compare_exchange(state, state + HELPER, SeqCst, SeqCst) {
                // SAFETY: this helper is in the round, so that the caller does not write before it has left.
                Ok(_) => return unsafe { *self.jobs.0.get() }.map(|jobs| (state >> 32, jobs)),
                Err(now) => state = now,
            }
        }
        None
    }

    fn do_jobs(&self, jobs: Jobs) {
        let done = catch_unwind(AssertUnwindSafe(|| {
            while let Some(number) = self.take(jobs.count) {
                // SAFETY: the caller returns from `close`, and so lets go of the jobs, only after this helper has left.
                unsafe { (*jobs.run)(number) };
            }
        }));
        if let Err(panic) = done {
            let mut first = lock(&self.panic);
            match *first {
                None => *first = Some(panic),
                // Its drop might panic, and then this helper would never leave.
                Some(_) => std::mem::forget(panic),
            }
        }
    }

    fn leave(&self) {
        let before = self.state.fetch_sub(HELPER, SeqCst);
        // The last one out, and nobody may join any more.
        if before & (ROUND - 1) == HELPER && self.caller_sleeps.load(SeqCst) {
            drop(lock(&self.lock));
            self.left.notify_all();
        }
    }

    fn sleep(&self, last: u64) {
        let mut guard = lock(&self.lock);
        self.sleepers.fetch_add(1, SeqCst);
        while !self.is_new(last) {
            guard = self.opened.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

/// No code that can panic runs under these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
