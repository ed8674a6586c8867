//! Tasks on the threads of rayon's pool, for work of some microseconds.
//!
//! A network is hundreds of short parallel sections with little between them. Rayon's threads give up the core when they have
//! looked for work a few times in vain, and then go to sleep; with two threads and one image that was 5 % of a prediction. So
//! who waits here looks for longer, as the thread pools of OpenMP do, before whoever else wants the core gets it.

use super::parallel::{Disjoint, output, part};
use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Threads that share tasks.
pub(crate) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Runs `f` of each number below `tasks`.
pub(crate) fn for_each(tasks: usize, f: impl Fn(usize) + Sync) {
    for_each_init(tasks, || (), |(), task| f(task));
}

/// [`for_each`], with something that a thread's tasks share.
pub(crate) fn for_each_init<S>(tasks: usize, init: impl Fn() -> S + Sync, f: impl Fn(&mut S, usize) + Sync) {
    // What a thread that is none of the pool's hands out, it cannot take back: amid its tasks it would wait for the end of
    // those of the others.
    let alone = BUSY.get() && rayon::current_thread_index().is_none();
    let helpers = if alone { 0 } else { threads().min(tasks).saturating_sub(1) };
    let shares = Shares::new(tasks, helpers + 1);
    let work = |thread: usize| {
        let mut state = None;
        while let Some(task) = shares.take(thread) {
            f(state.get_or_insert_with(&init), task);
        }
    };
    if helpers == 0 {
        return work(0);
    }
    keep_threads_awake();
    let unfinished = AtomicUsize::new(helpers);
    let (work, unfinished) = (&work, &unfinished);
    rayon::in_place_scope(|scope| {
        for helper in 1..=helpers {
            scope.spawn(move |_| {
                let _finished = CountDown(unfinished);
                work(helper);
            });
        }
        let _busy = Busy::begin();
        work(0);
        // The scope would wait as well, but go to sleep.
        let mut patience = Patience::default();
        while unfinished.load(Ordering::Acquire) > 0 {
            patience.wait();
        }
    });
}

/// Runs `f` of each piece of `numbers`, `len` in each but the last, and of the piece's number.
pub(crate) fn for_each_chunk<N: Send>(numbers: &mut [N], len: usize, f: impl Fn(usize, &mut [N]) + Sync) {
    for_each_chunk_init(numbers, len, || (), |(), chunk, numbers| f(chunk, numbers));
}

/// [`for_each_chunk`], with something that a thread's pieces share.
pub(crate) fn for_each_chunk_init<N: Send, S>(
    numbers: &mut [N],
    len: usize,
    init: impl Fn() -> S + Sync,
    f: impl Fn(&mut S, usize, &mut [N]) + Sync,
) {
    let all = numbers.len();
    let numbers = Disjoint::new(numbers);
    let len = len.max(1);
    for_each_init(all.div_ceil(len), init, |state, chunk| {
        // SAFETY: no two tasks have the same chunk.
        f(state, chunk, unsafe { numbers.slice(chunk * len..((chunk + 1) * len).min(all)) });
    });
}

/// `f` of each number below `tasks`, in their order.
pub(crate) fn map<R: Send>(tasks: usize, f: impl Fn(usize) -> R + Sync) -> Vec<R> {
    // SAFETY: each task writes its own result, and there is nothing before it that would have to be dropped.
    let results = unsafe {
        output(tasks, |results: Disjoint<R>| {
            for_each(tasks, |task| results.at(task, 1).write(f(task)));
        })
    };
    results.expect("there are few results")
}

/// The tasks that each thread begins with: neighbours, which read the same numbers, or what was fetched for the next one.
/// Who has none left takes the last ones of another.
struct Shares(Vec<Share>);

/// The numbers of the first task that is left, and of the one behind the last. On a cache line of its own.
#[repr(align(64))]
struct Share(AtomicU64);

impl Shares {
    fn new(tasks: usize, threads: usize) -> Self {
        assert!(u32::try_from(tasks).is_ok(), "{tasks} tasks are too many");
        Shares((0..threads).map(|i| Share(AtomicU64::new(pack(part(tasks, threads, i))))).collect())
    }

    fn take(&self, thread: usize) -> Option<usize> {
        self.0[thread].take(|left| (left.start + 1..left.end, left.start)).or_else(|| {
            loop {
                let longest = self.0.iter().max_by_key(|share| share.left().len())?;
                if longest.left().is_empty() {
                    return None;
                }
                // In vain where others were faster.
                if let Some(task) = longest.take(|left| (left.start..left.end - 1, left.end - 1)) {
                    return Some(task);
                }
            }
        })
    }
}

impl Share {
    fn left(&self) -> Range<usize> {
        // Of tasks: what they read and write is ordered by the scope that runs them.
        unpack(self.0.load(Ordering::Relaxed))
    }

    /// The task that `split` takes of those that are left, unless there is none.
    fn take(&self, split: impl Fn(Range<usize>) -> (Range<usize>, usize)) -> Option<usize> {
        let rest = |left: u64| (!unpack(left).is_empty()).then(|| pack(split(unpack(left)).0));
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).ok()?;
        Some(split(unpack(before)).1)
    }
}

fn pack(tasks: Range<usize>) -> u64 {
    (tasks.start as u64) << 32 | tasks.end as u64
}

fn unpack(tasks: u64) -> Range<usize> {
    (tasks >> 32) as usize..(tasks & u64::from(u32::MAX)) as usize
}

/// Counts down when it is dropped, also where a task panics.
struct CountDown<'a>(&'a AtomicUsize);

impl Drop for CountDown<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// Waits, and runs what others have to do meanwhile.
#[derive(Default)]
struct Patience {
    looks: u32,
}

/// So often the core is kept while there is nothing to do: some microseconds.
const LOOKS: u32 = 256;

impl Patience {
    /// Whether there was something to do.
    fn wait(&mut self) -> bool {
        if rayon::yield_now() == Some(rayon::Yield::Executed) {
            self.looks = 0;
            return true;
        }
        self.looks += 1;
        if self.looks < LOOKS {
            std::hint::spin_loop();
        } else {
            std::thread::yield_now();
        }
        false
    }
}

thread_local! { static BUSY: Cell<bool> = const { Cell::new(false) }; }

/// While a thread has tasks of its own, or waits for those of others, it does not linger.
struct Busy {
    before: bool,
}

impl Busy {
    fn begin() -> Self {
        Busy { before: BUSY.replace(true) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.set(self.before);
    }
}

/// A thread that has nothing to do looks for work for so long.
const LINGER: Duration = Duration::from_micros(500);

/// Threads that linger, or are about to.
static LINGERING: AtomicUsize = AtomicUsize::new(0);

/// Lets the pool's threads [`linger`].
fn keep_threads_awake() {
    let threads = threads();
    let idle = LINGERING.load(Ordering::Relaxed) == 0;
    if idle && LINGERING.compare_exchange(0, threads, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
        rayon::spawn_broadcast(|_| linger());
    }
}

/// Runs what there is to do, until there has been nothing for a while.
fn linger() {
    let _finished = CountDown(&LINGERING);
    if BUSY.get() {
        return;
    }
    let _busy = Busy::begin();
    let (mut patience, mut last) = (Patience::default(), Instant::now());
    while last.elapsed() < LINGER {
        if patience.wait() {
            last = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    fn with_threads<R: Send>(threads: usize, f: impl FnOnce() -> R + Send) -> R {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be had").install(f)
    }

    #[test]
    fn each_task_runs_once_and_results_keep_their_order() {
        for (threads, tasks) in [(1, 5), (2, 0), (2, 1), (2, 7), (3, 100), (8, 3)] {
            let squares = with_threads(threads, || map(tasks, |task| task * task));
            assert_eq!(squares, (0..tasks).map(|task| task * task).collect::<Vec<_>>());
        }
        let mut numbers = vec![0; 10];
        for_each_chunk(&mut numbers, 4, |chunk, numbers| numbers.iter_mut().for_each(|number| *number += chunk + 1));
        assert_eq!(numbers, [1, 1, 1, 1, 2, 2, 2, 2, 3, 3]);
        for_each_chunk(&mut [0u8; 0], 0, |_, _| unreachable!("there is nothing"));
    }

    #[test]
    fn a_thread_takes_neighbours_and_then_the_last_ones_of_another() {
        let shares = Shares::new(7, 2);
        let taken: Vec<_> = std::iter::from_fn(|| shares.take(1)).collect();
        assert_eq!(taken, [3, 4, 5, 6, 2, 1, 0]);
        assert_eq!(shares.take(0), None);
    }

    #[test]
    fn sections_nest_and_come_from_any_thread() {
        let sum = || map(5, |i| map(20, |j| i * j).iter().sum::<usize>()).iter().sum::<usize>();
        let sums = with_threads(2, || map(4, |_| sum()));
        let outside = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(sum)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no task panics")).collect::<Vec<_>>()
        });
        assert!(sums.into_iter().chain(outside).all(|sum| sum == 1900));
    }

    #[test]
    fn a_thread_that_is_none_of_the_pools_does_what_is_nested_by_itself() {
        let who = || (rayon::current_thread_index(), std::thread::current().id());
        let nested = || map(100, |_| (who(), map(4, |_| who())));
        let all = std::thread::scope(|scope| scope.spawn(nested).join().expect("no task panics"));
        for (caller, tasks) in all.into_iter().filter(|((index, _), _)| index.is_none()) {
            assert!(tasks.iter().all(|task| *task == caller), "{caller:?} waited for {tasks:?}");
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_other_tasks_end() {
        for panicking in [0, 9] {
            let result = with_threads(2, || {
                catch_unwind(AssertUnwindSafe(|| for_each(10, |task| assert!(task != panicking, "task {task}"))))
            });
            let message = result.expect_err("a task panicked");
            let text = message.downcast_ref::<String>().map(String::as_str);
            assert_eq!(text, Some(format!("task {panicking}").as_str()));
        }
        with_threads(2, || for_each(10, |_| ()));
    }
}
