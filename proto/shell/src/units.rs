//! Sizes and durations as people write them: "512MiB", "1.5s". Made to be used as clap value parsers, and to print
//! what they parse.

use std::time::Duration;

/// A size or duration that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a size.
    #[error("{0:?} is not a size; write a number and a unit, such as 512MiB, 4GiB, 100MB or 4096")]
    Size(String),
    /// Not a duration.
    #[error("{0:?} is not a duration; write a number and a unit, such as 500ms, 10s, 2m or 1h")]
    Duration(String),
    /// Longer than [`DURATION_MAX`].
    #[error("{0:?} is more than a year; write 8784h, which is as good as for ever")]
    DurationTooLong(String),
}

const SIZES: [(&str, u64); 8] = [
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
];

const DURATIONS: [(&str, f64); 5] = [("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];

/// The longest duration: a year, so that an instant that far away can still be represented.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// Splits "1.5 GiB" into 1.5 and "gib".
fn split(text: &str) -> Option<(f64, String)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim().to_ascii_lowercase()))
}

/// Bytes: a number with B, KiB, MiB, GiB, TiB, kB, MB, GB or TB; bytes without a unit.
///
/// # Errors
/// When it is none.
pub fn bytes(text: &str) -> Result<u64, UnitError> {
    let wrong = || UnitError::Size(text.to_owned());
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let scale = match unit.as_str() {
        "" | "b" => 1,
        unit => SIZES.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1,
    };
    let bytes = number * scale as f64;
    if bytes.fract() != 0.0 && scale == 1 || bytes >= u64::MAX as f64 {
        return Err(wrong());
    }
    Ok(bytes as u64)
}

/// A duration: a number with us, ms, s, m or h; a unit is required, except for 0.
///
/// # Errors
/// When it is none, or longer than a year.
pub fn duration(text: &str) -> Result<Duration, UnitError> {
    let wrong = || UnitError::Duration(text.to_owned());
    let (number, unit) = split(text).ok_or_else(wrong)?;
    if unit.is_empty() && number == 0.0 {
        return Ok(Duration::ZERO);
    }
    let scale = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?.1;
    match Duration::try_from_secs_f64(number * scale) {
        Ok(time) if time <= DURATION_MAX => Ok(time),
        _ => Err(UnitError::DurationTooLong(text.to_owned())),
    }
}

/// A size for people: "5.25 GiB".
pub fn show_bytes(bytes: u64) -> String {
    let unit = SIZES[..4].iter().rev().find(|(_, scale)| bytes >= *scale);
    match unit {
        None => format!("{bytes} B"),
        Some((name, scale)) => {
            let name = format!("{}iB", name[..1].to_ascii_uppercase());
            format!("{:.2} {name}", bytes as f64 / *scale as f64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(bytes("512MiB"), Ok(512 << 20));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("100MB"), Ok(100_000_000));
        assert_eq!(bytes("4096"), Ok(4096));
        for wrong in ["", "MiB", "1.5", "12 parsecs", "-1", "999999999TiB"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for wrong in ["", "5", "s", "5 years", "-1s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
        assert_eq!(duration("8784h"), Ok(DURATION_MAX));
        for long in ["8785h", "3000000000000000h", "9999999999999999999999h"] {
            assert_eq!(duration(long), Err(UnitError::DurationTooLong(long.into())));
        }
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(3 << 29), "1.50 GiB");
    }
}
