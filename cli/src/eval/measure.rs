//! Carries out an evaluation: what is asked, in which order, and how much at a time.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hadal_proto::v1::Attention;
use hadal_shell::exit::Exit;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::ask::{Ask, Group, Said};
use super::needle::{Needle, draws, resized, right};
use super::report::{Cached, Recall};
use super::score::Token;
use super::text::Window;
use crate::fault::Fault;
use crate::progress::Progress;

/// How often progress is shown while nothing ends.
const TICK: Duration = Duration::from_secs(1);

/// Runs `count` jobs, at most `limit` at a time, each made when its turn comes; their results are in the jobs' order.
async fn all<T: Send + 'static>(
    what: &str,
    limit: usize,
    count: usize,
    jobs: impl Iterator<Item = impl Future<Output = Result<T, Fault>> + Send + 'static>,
) -> Result<Vec<T>, Fault> {
    let (progress, begun) = (Progress::new(), Instant::now());
    let mut results: Vec<Option<T>> = (0..count).map(|_| None).collect();
    let mut waiting = jobs.take(count).enumerate();
    // Dropped at the first failure, and that cancels the others on the cluster.
    let mut running = JoinSet::new();
    let mut done = 0;
    loop {
        while running.len() < limit {
            let Some((i, job)) = waiting.next() else { break };
            running.spawn(async move { (i, job.await) });
        }
        progress.show(|| format!("{what}: {done} of {count}, {} s", begun.elapsed().as_secs()));
        match timeout(TICK, running.join_next()).await {
            Err(_) => continue,
            Ok(None) => return Ok(results.into_iter().flatten().collect()),
            Ok(Some(Err(broken))) => return Err(Fault::new(Exit::Software, broken)),
            Ok(Some(Ok((i, result)))) => results[i] = Some(result?),
        }
        done += 1;
    }
}

/// Both kinds, in the order in which results come in pairs.
const KINDS: [Attention; 2] = [Attention::Unspecified, Attention::Dense];

/// The first tokens of a window, to see what the model can do before the long part.
const PROBE_TOKENS: usize = 8;

/// Whether the model chooses what to attend to: only then does it tell how choices overlap.
pub(super) async fn chooses(ask: &Ask, window: &Window) -> Result<bool, Fault> {
    let mut probe = window.clone();
    probe.forced.truncate(PROBE_TOKENS);
    let said = ask.score(&probe, Attention::Unspecified).await?;
    Ok(said.iter().any(|said| said.overlap.is_some()))
}

/// Scores all windows both ways.
pub(super) async fn scored(ask: &Ask, windows: Vec<Window>, limit: usize) -> Result<Vec<Token>, Fault> {
    let score = |window: Window, kind| {
        let ask = ask.clone();
        async move { ask.score(&window, kind).await }
    };
    let begins: Vec<usize> = windows.iter().map(|window| window.prompt.len()).collect();
    let jobs = windows.into_iter().flat_map(|window| KINDS.map(|kind| score(window.clone(), kind)));
    let said = all("perplexity, windows of text", limit, KINDS.len() * begins.len(), jobs).await?;
    let window = |(pair, begin): (&[Vec<Said>], &usize)| paired(&pair[0], &pair[1], *begin);
    Ok(said.chunks_exact(2).zip(&begins).flat_map(window).collect())
}

fn paired(sparse: &[Said], dense: &[Said], begin: usize) -> Vec<Token> {
    let token = |((sparse, dense), position): ((&Said, &Said), usize)| Token {
        position,
        sparse: sparse.loss,
        dense: dense.loss,
        overlap: sparse.overlap,
    };
    sparse.iter().zip(dense).zip(begin..).map(token).collect()
}

/// Where needles are hidden and how they are asked for.
#[derive(Clone)]
pub(super) struct Haystack {
    pub(super) ask: Ask,
    /// What the filler is taken from.
    pub(super) text: std::sync::Arc<str>,
    pub(super) prefix: Vec<u32>,
    pub(super) bytes_per_token: f64,
    /// Facts beside the one asked for.
    pub(super) others: usize,
    /// Whether there is a chat template.
    pub(super) chats: bool,
}

/// Tokens of the text before the fact.
const HEAD_TOKENS: f64 = 64.0;

/// What is asked first, of any text.
const FIRST_QUESTION: &str = "What is this text about?";

/// How often a needle is asked for through the prefix cache: a cluster may place a request where nothing is cached.
const ASKED_MAX: usize = 4;

/// How often the filler is sized anew; it is near after the second time.
const SIZES_MAX: usize = 5;

impl Haystack {
    /// A needle, and the text with it so that the fact is `distance` tokens before the end.
    async fn hidden(&self, distance: usize, index: usize) -> Result<(Needle, String), Fault> {
        let others = self.others;
        let head = HEAD_TOKENS * self.bytes_per_token;
        let needle = Needle::new(&self.text, &mut draws(distance, index), others, head as usize);
        let mut bytes = (distance as f64 * self.bytes_per_token) as usize;
        let mut tokens = 0;
        for _ in 0..SIZES_MAX {
            let after = needle.after(&self.text, bytes);
            tokens = self.ask.tokens(&after, &self.prefix, usize::MAX).await?.0.len();
            match resized(bytes, tokens, distance, self.bytes_per_token) {
                None => {
                    let text = needle.text(&after);
                    return Ok((needle, text));
                }
                Some(next) => bytes = next,
            }
        }
        let why = format!("no text of {distance} tokens can be made with {others} other facts (they give {tokens})");
        Err(Fault::say(Exit::Usage, format!("{why}; give fewer --others or longer --distances")))
    }

    /// Whether facts can be asked for, to be known before anything is measured: the others must leave room at the
    /// nearest distance, and the context must have room for the farthest with all that is around it.
    pub(super) async fn has_room(&self, nearest: usize, farthest: usize) -> Result<(), Fault> {
        self.hidden(nearest, 0).await?;
        let first = self.clone().found(farthest, 0, &KINDS[..1]);
        all("the longest text, to see that it fits", 1, 1, std::iter::once(first)).await.map(drop)
    }

    async fn found(self, distance: usize, index: usize, kinds: &[Attention]) -> Result<Vec<bool>, Fault> {
        let (needle, text) = self.hidden(distance, index).await?;
        let asked = &needle.facts[0];
        let mut found = Vec::new();
        for kind in kinds {
            let answer = self.ask.answer((&text, &asked.question()), self.chats, *kind, &Group::default()).await?;
            found.push(right(&answer.text, asked, &needle.facts));
        }
        Ok(found)
    }

    /// Asks for `needles` facts at every distance.
    pub(super) async fn recall(&self, distances: &[usize], needles: usize, limit: usize) -> Result<Vec<Recall>, Fault> {
        let ask = |distance: usize| (0..needles).map(move |index| self.clone().found(distance, index, &KINDS));
        let jobs = distances.iter().flat_map(|distance| ask(*distance));
        let found = all("needles", limit, distances.len() * needles, jobs).await?;
        let row = |(distance, found): (&usize, &[Vec<bool>])| {
            let count = |kind: usize| found.iter().filter(|found| found[kind]).count();
            Recall { distance: *distance, asked: found.len(), sparse: count(0), dense: count(1) }
        };
        Ok(distances.iter().zip(found.chunks(needles.max(1))).map(row).collect())
    }

    /// One conversation: asked something else first, so that its text is cached; then for the needle; then for the
    /// needle where nothing is cached.
    async fn again(self, distance: usize, index: usize, kind: Attention, run: String) -> Result<Cached, Fault> {
        let (needle, text) = self.hidden(distance, index).await?;
        let asked = &needle.facts[0];
        let group = |salt: &str| Group {
            salt: format!("{run}-{salt}"),
            session: format!("{run}-{index}-{}", kind.as_str_name()),
        };
        let answer =
            async |question: &str, salt: &str| self.ask.answer((&text, question), self.chats, kind, &group(salt)).await;
        answer(FIRST_QUESTION, "warm").await?;
        let mut warm = answer(&asked.question(), "warm").await?;
        for _ in 1..ASKED_MAX {
            if warm.cached_tokens == 0 {
                warm = answer(&asked.question(), "warm").await?;
            }
        }
        let cold = answer(&asked.question(), "cold").await?;
        Ok(Cached {
            asked: 1,
            cached: usize::from(warm.cached_tokens > 0),
            same: usize::from(warm.text == cold.text),
            right: usize::from(right(&warm.text, asked, &needle.facts)),
            cached_tokens: warm.cached_tokens.into(),
            prompt_tokens: warm.prompt_tokens.into(),
        })
    }

    /// Asks through the prefix cache: sparse and dense. One at a time, as a busy worker's cache is passed by for an
    /// idle one.
    pub(super) async fn cached(&self, distance: usize, count: usize) -> Result<[Cached; 2], Fault> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        // Of this run alone: what an earlier one left in caches must not be found.
        let run = format!("eval-{since:x}");
        let of = |index: usize| KINDS.map(|kind| self.clone().again(distance, index, kind, run.clone()));
        let jobs = (0..count).flat_map(of);
        let all = all("needles through the prefix cache", 1, KINDS.len() * count, jobs).await?;
        let sum = |kind: usize| all.iter().skip(kind).step_by(2).fold(Cached::default(), |sum, one| sum.plus(one));
        Ok([sum(0), sum(1)])
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    #[tokio::test]
    async fn results_come_in_order_whatever_ends_first() {
        let jobs = (0..20u32).map(|i| async move {
            for _ in 0..(20 - i) {
                tokio::task::yield_now().await;
            }
            Ok(i)
        });
        assert_eq!(all("test", 7, 20, jobs).await.unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn the_first_failure_ends_all() {
        let jobs = (0..3).map(|i| async move {
            match i {
                1 => Err(Fault::say(Exit::Data, "one")),
                _ => std::future::pending::<Result<(), _>>().await,
            }
        });
        assert_eq!(all("test", 3, 3, jobs).await.unwrap_err().exit, Exit::Data);
    }

    #[tokio::test]
    async fn no_more_jobs_are_made_than_run() {
        let (made, done) = (Cell::new(0), Arc::new(AtomicU32::new(0)));
        let jobs = (0..20u32).map(|_| {
            made.set(made.get() + 1);
            assert!(made.get() <= 3 + done.load(Relaxed), "a job was made before its turn");
            let done = done.clone();
            async move {
                done.fetch_add(1, Relaxed);
                Ok(())
            }
        });
        assert_eq!(all("test", 3, 20, jobs).await.unwrap().len(), 20);
    }
}
