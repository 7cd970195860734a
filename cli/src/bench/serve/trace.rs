//! Request traces in the two formats that are published most. Pure: lines in, requests out.
//!
//! Mooncake's is JSON, an object a line; times in milliseconds, `hash_ids` one id for each block of 512 prompt tokens:
//!
//!     {"timestamp": 0, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1, ..., 13]}
//!
//! Azure's is CSV; columns may stand in any order and others beside them:
//!
//!     TIMESTAMP,ContextTokens,GeneratedTokens
//!     2023-11-16 18:17:03.9799600,4808,10

use std::io::{BufRead, Read};
use std::time::Duration;

use serde_json::Value;

/// Prompt tokens that one id of Mooncake's traces stands for.
pub(super) const BLOCK_TOKENS: u32 = 512;

/// Bytes of one line at most: 100 times what a prompt of a million tokens takes.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// Requests of one trace at most, so that memory stays bounded.
pub(super) const REQUESTS_MAX: usize = 1_000_000;

/// Tokens of a prompt or an answer at most: what is longer is no request, but a broken number.
const TOKENS_MAX: u64 = 1 << 24;

/// One request of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Request {
    /// When it came, after the first.
    pub(super) at: Duration,
    /// Tokens of its prompt, at least 1.
    pub(super) input_tokens: u32,
    /// Tokens of its answer, at least 1.
    pub(super) output_tokens: u32,
    /// What its prompt consists of, a block each; equal ids are equal text. Empty where the trace does not say.
    pub(super) blocks: Vec<u64>,
}

/// A trace that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{file}:{line}: {problem}")]
    Line { file: String, line: usize, problem: String },
    #[error("{file} has no request: it is empty, or has a header only")]
    Empty { file: String },
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: std::io::Error },
}

/// What the first line shows.
enum Format {
    Mooncake,
    Azure(Columns),
}

/// Where Azure's columns are.
struct Columns {
    timestamp: usize,
    context: usize,
    generated: usize,
}

/// The first `limit` requests, by the time of their coming.
///
/// # Errors
/// Names the line that is wrong.
pub(super) fn read(input: &mut impl BufRead, file: &str, limit: usize) -> Result<Vec<Request>, Error> {
    let mut lines = Lines { input, number: 0 };
    let mut format = None;
    // Times are nanoseconds of any origin until the first one is known.
    let mut requests: Vec<(i64, Request)> = Vec::new();
    while requests.len() < limit.min(REQUESTS_MAX) {
        let wrong = |line, problem| Error::Line { file: file.to_owned(), line, problem };
        let (number, line) = match lines.next() {
            Err(Unread::Os(source)) => return Err(Error::Read { file: file.to_owned(), source }),
            Err(Unread::Line(problem)) => return Err(wrong(lines.number, problem)),
            Ok(None) => break,
            Ok(Some(line)) => line,
        };
        let read = match &format {
            Some(Format::Mooncake) => mooncake(&line),
            Some(Format::Azure(columns)) => azure(&line, columns),
            None if line.starts_with('{') => {
                format = Some(Format::Mooncake);
                mooncake(&line)
            }
            None => {
                let columns = Columns::of(&line).map_err(|problem| wrong(number, problem))?;
                format = Some(Format::Azure(columns));
                continue;
            }
        };
        requests.push(read.map_err(|problem| wrong(number, problem))?);
    }
    let Some(first) = requests.iter().map(|(at, _)| *at).min() else {
        return Err(Error::Empty { file: file.to_owned() });
    };
    // Stable: requests of one time stay in their order.
    requests.sort_by_key(|(at, _)| *at);
    let after = |at: i64| Duration::from_nanos(at.saturating_sub(first).unsigned_abs());
    Ok(requests.into_iter().map(|(at, request)| Request { at: after(at), ..request }).collect())
}

/// The lines that are not blank.
struct Lines<'a, R> {
    input: &'a mut R,
    number: usize,
}

/// Why there is no next line.
enum Unread {
    Os(std::io::Error),
    Line(String),
}

impl<R: BufRead> Lines<'_, R> {
    fn next(&mut self) -> Result<Option<(usize, String)>, Unread> {
        loop {
            let mut bytes = Vec::new();
            if self.input.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes).map_err(Unread::Os)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if bytes.len() as u64 == LINE_BYTES_MAX && !bytes.ends_with(b"\n") {
                return Err(Unread::Line(format!("longer than {LINE_BYTES_MAX} bytes: this is no trace")));
            }
            let line = String::from_utf8(bytes).map_err(|_| Unread::Line("no UTF-8: this is no trace".to_owned()))?;
            let line = line.trim_start_matches('\u{feff}').trim();
            if !line.is_empty() {
                return Ok(Some((self.number, line.to_owned())));
            }
        }
    }
}

fn mooncake(line: &str) -> Result<(i64, Request), String> {
    let object: Value = serde_json::from_str(line).map_err(|error| format!("no JSON object: {error}"))?;
    let field = |name: &str| object.get(name).ok_or_else(|| format!("{name} is missing"));
    let time = field("timestamp")?.as_f64().filter(|ms| ms.is_finite() && (0.0..1e12).contains(ms));
    let time = time.ok_or("timestamp is no number of milliseconds")?;
    let tokens = |name: &str| length(name, field(name)?.as_u64());
    let id =
        |id: &Value| id.as_u64().or_else(|| id.as_i64().map(|id| id as u64)).ok_or("hash_ids holds no whole number");
    let blocks = match object.get("hash_ids") {
        None | Some(Value::Null) => Vec::new(),
        Some(ids) => ids.as_array().ok_or("hash_ids is no list")?.iter().map(id).collect::<Result<_, _>>()?,
    };
    let (input_tokens, output_tokens) = (tokens("input_length")?, tokens("output_length")?);
    Ok(((time * 1e6) as i64, Request { at: Duration::ZERO, input_tokens, output_tokens, blocks }))
}

/// A length; what was nothing is one, as no request can be less.
fn length(name: &str, tokens: Option<u64>) -> Result<u32, String> {
    let tokens = tokens.filter(|tokens| *tokens <= TOKENS_MAX);
    tokens.map(|tokens| tokens.max(1) as u32).ok_or_else(|| format!("{name} is no number of tokens"))
}

fn fields(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|field| field.trim().trim_matches('"'))
}

impl Columns {
    fn of(header: &str) -> Result<Self, String> {
        let names = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"];
        let find = |name: &str| {
            let at = fields(header).position(|field| field.eq_ignore_ascii_case(name));
            let formats = format!("neither Mooncake's JSON lines nor CSV with the columns {}", names.join(", "));
            at.ok_or_else(|| format!("{formats}: {name} is missing"))
        };
        Ok(Self { timestamp: find(names[0])?, context: find(names[1])?, generated: find(names[2])? })
    }
}

fn azure(line: &str, columns: &Columns) -> Result<(i64, Request), String> {
    let fields: Vec<&str> = fields(line).collect();
    let field = |name: &str, at: usize| fields.get(at).copied().ok_or_else(|| format!("{name} is missing"));
    let tokens = |name: &str, at: usize| length(name, field(name, at)?.parse().ok());
    let timestamp = field("TIMESTAMP", columns.timestamp)?;
    let at = nanoseconds(timestamp)
        .ok_or_else(|| format!("TIMESTAMP {timestamp:?} is no time such as 2023-11-16 18:17:03.9799600"))?;
    let (input_tokens, output_tokens) =
        (tokens("ContextTokens", columns.context)?, tokens("GeneratedTokens", columns.generated)?);
    Ok((at, Request { at: Duration::ZERO, input_tokens, output_tokens, blocks: Vec::new() }))
}

/// Nanoseconds since 1970 of a time in UTC.
fn nanoseconds(text: &str) -> Option<i64> {
    let text = text.trim_end_matches('Z').trim_end_matches("+00:00");
    let (date, time) = text.split_once([' ', 'T'])?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let mut day = || date.next().flatten();
    let (year, month, day) = (day()?, day()?, day()?);
    if !(1970..2200).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let mut time = time.splitn(3, ':');
    let (hours, minutes) = (time.next()?.parse::<i64>().ok()?, time.next()?.parse::<i64>().ok()?);
    let seconds = time.next()?.parse::<f64>().ok()?;
    if !(0..24).contains(&hours) || !(0..60).contains(&minutes) || !(0.0..61.0).contains(&seconds) {
        return None;
    }
    let minutes = (days(year, month, day) * 24 + hours) * 60 + minutes;
    Some(minutes * 60_000_000_000 + (seconds * 1e9).round() as i64)
}

/// Days since 1970-01-01 in the Gregorian calendar [Hinnant, days_from_civil].
fn days(year: i64, month: i64, day: i64) -> i64 {
    // A year begins in March here, so that the leap day is its last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leaps = year / 4 - year / 100 + year / 400;
    365 * year + leaps + (153 * month + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests;
