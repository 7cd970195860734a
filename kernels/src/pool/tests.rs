//! Every job once, whoever calls, and nobody left behind.

use std::sync::atomic::AtomicU32;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(NonZeroUsize::new(threads)).unwrap()
}

fn each_job_runs_once(pool: &Pool, count: usize) {
    let runs: Vec<AtomicU32> = (0..count).map(|_| AtomicU32::new(0)).collect();
    pool.run(count, &|number| {
        runs[number].fetch_add(1, SeqCst);
    });
    assert!(runs.iter().all(|r| r.load(SeqCst) == 1));
}

#[test]
fn every_job_runs_once_round_after_round() {
    for threads in [1, 2, 3, 9] {
        let pool = pool(threads);
        assert_eq!(pool.threads(), threads);
        for round in 0..500 {
            each_job_runs_once(&pool, round % 40);
        }
    }
}

#[test]
fn several_callers_share_the_helpers() {
    let pool = pool(3);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..300).for_each(|round| each_job_runs_once(&pool, round % 7)));
        }
    });
}

#[test]
fn helpers_that_sleep_are_woken() {
    let pool = pool(2);
    for _ in 0..20 {
        while !pool.sleeps() {
            std::thread::yield_now();
        }
        // The first job ends only when another thread has the second.
        let both = std::sync::Barrier::new(2);
        pool.run(2, &|_| {
            both.wait();
        });
    }
}

#[test]
fn a_job_may_have_jobs() {
    let pool = pool(3);
    let runs = AtomicU32::new(0);
    pool.run(8, &|_| {
        pool.run(8, &|_| {
            runs.fetch_add(1, SeqCst);
        });
    });
    assert_eq!(runs.load(SeqCst), 64);
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = pool(3);
    for bad in 0..30 {
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(30, &|number| assert_ne!(number, bad))));
        assert!(outcome.is_err());
        each_job_runs_once(&pool, 30);
    }
}

#[test]
fn of_two_panics_in_one_round_none_is_left_for_the_next() {
    let pool = pool(2);
    // Both threads have a job, and both panic.
    let both = std::sync::Barrier::new(2);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        pool.run(2, &|number| {
            both.wait();
            panic!("job {number}");
        });
    }));
    assert!(outcome.is_err());
    each_job_runs_once(&pool, 30);
}

#[test]
fn a_panic_on_a_helper_is_that_of_its_own_caller() {
    let pool = pool(3);
    let on_helper = || std::thread::current().name().is_some_and(|name| name.starts_with("kernel-"));
    std::thread::scope(|scope| {
        scope.spawn(|| (0..3000).for_each(|round| each_job_runs_once(&pool, round % 7)));
        scope.spawn(|| {
            for _ in 0..3000 {
                let (panicked, undone) = (AtomicU32::new(0), AtomicU32::new(8));
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    pool.run(8, &|_| {
                        if on_helper() {
                            panicked.store(1, SeqCst);
                            // Without the hook's message: there are thousands.
                            resume_unwind(Box::new("on a helper"));
                        }
                        undone.fetch_sub(1, SeqCst);
                    });
                }));
                assert_eq!(outcome.is_err(), panicked.load(SeqCst) == 1);
                assert!(outcome.is_err() || undone.load(SeqCst) == 0);
            }
        });
    });
}

#[test]
fn chunks_are_disjoint_and_all_there() {
    let pool = pool(4);
    for (length, chunk) in [(0, 3), (1, 3), (3, 3), (100, 7), (5, 0)] {
        let mut items = vec![0usize; length];
        pool.chunks(&mut items, chunk, |number, items| {
            assert!(items.len() <= chunk.max(1));
            items.iter_mut().enumerate().for_each(|(i, item)| *item += number * chunk.max(1) + i + 1);
        });
        assert!(items.iter().enumerate().all(|(i, &item)| item == i + 1));
    }
}
