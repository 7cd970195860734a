//! What this machine has: last-level cache and free memory, as Linux tells them.

use std::fs;
use std::path::Path;

use hadal_shell::exit::Exit;
use hadal_shell::units::show_bytes;

use crate::fault::Fault;

/// Taken where the machine does not say.
const CACHE_DEFAULT: usize = 32 << 20;
/// Buffers that must come from memory exceed the last-level cache by this factor, and are at least so large.
const BEYOND_CACHE: usize = 4;
const HEADLINE_MIN: usize = 256 << 20;
/// Of free memory, what a bench may take: others need some, too.
const MEMORY_SHARE: f64 = 0.9;

/// The last-level cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cache {
    pub(super) bytes: usize,
    /// Whether the machine said so.
    pub(super) told: bool,
}

impl Cache {
    /// That of the first processor.
    pub(super) fn last_level() -> Self {
        let caches = fs::read_dir("/sys/devices/system/cpu/cpu0/cache").into_iter().flatten().flatten();
        let found = caches.filter_map(|entry| cache(&entry.path())).max();
        match found {
            Some((_, bytes)) => Self { bytes, told: true },
            None => Self { bytes: CACHE_DEFAULT, told: false },
        }
    }

    /// Bytes that do not fit it by far.
    pub(super) fn beyond(&self) -> usize {
        (BEYOND_CACHE * self.bytes).max(HEADLINE_MIN)
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let size = show_bytes(self.bytes as u64);
        if self.told { size } else { format!("not told, {size} taken") }
    }
}

/// Level and size of one cache.
fn cache(folder: &Path) -> Option<(u32, usize)> {
    let read = |name: &str| fs::read_to_string(folder.join(name)).ok();
    Some((read("level")?.trim().parse().ok()?, size(&read("size")?)?))
}

/// `32768K` and the like.
fn size(text: &str) -> Option<usize> {
    let text = text.trim();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit {
        "" => 1,
        "K" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return None,
    };
    number.parse::<usize>().ok()?.checked_mul(factor)
}

/// Memory that can be taken without swapping, within the limit of this process's group; none where nobody says.
pub(super) fn memory_available() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| meminfo(&text));
    let number = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?.trim().parse::<u64>().ok();
    let group = number("memory.max").zip(number("memory.current")).map(|(most, now)| most.saturating_sub(now));
    machine.into_iter().chain(group).min()
}

fn meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// What a bench may take; where nobody says how much is free, everything.
pub(super) fn memory_budget() -> u64 {
    memory_available().map_or(u64::MAX, |free| (free as f64 * MEMORY_SHARE) as u64)
}

/// More than there is.
pub(super) fn too_little(needed: u64, advice: &str) -> Fault {
    let (needed, free) = (show_bytes(needed), show_bytes(memory_budget()));
    Fault::say(Exit::Unavailable, format!("this needs {needed} of memory and may take {free}: {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_caches_are_read() {
        assert_eq!((size("32768K\n"), size("1M"), size("512")), (Some(32 << 20), Some(1 << 20), Some(512)));
        assert_eq!((size(""), size("K"), size("3X"), size("99999999999999999999K")), (None, None, None, None));
    }

    #[test]
    fn the_highest_level_counts() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("level"), "3\n").unwrap();
        assert_eq!(cache(folder.path()), None);
        std::fs::write(folder.path().join("size"), "16M\n").unwrap();
        assert_eq!(cache(folder.path()), Some((3, 16 << 20)));
    }

    #[test]
    fn what_must_come_from_memory_exceeds_the_cache() {
        let beyond = |mib: usize| Cache { bytes: mib << 20, told: true }.beyond() >> 20;
        assert_eq!((beyond(16), beyond(260)), (256, 1040));
        assert!(Cache { bytes: 32 << 20, told: false }.text().contains("not told"));
    }

    #[test]
    fn free_memory_is_read() {
        assert_eq!(meminfo("MemTotal: 9 kB\nMemAvailable:    2048 kB\n"), Some(2 << 20));
        assert_eq!(meminfo("MemTotal: 9 kB\n"), None);
        assert!(memory_budget() > 0);
    }

    #[test]
    fn too_little_memory_says_how_much() {
        let fault = too_little(5 << 40, "take less");
        assert_eq!(fault.exit, Exit::Unavailable);
        assert!(fault.to_string().contains("5.00 TiB") && fault.to_string().contains("take less"), "{fault}");
    }
}
