//! What cgroup files say, read from text.
//!
//! Owns: parsing `cpu.stat`, `memory.events`, `pids.events`, `cgroup.events`, `cgroup.controllers` and files of one number.
//! Never: opens a file. A key or number that is not there is `None`, never 0.

use super::Controller;

/// CPU time of a group and everything below it since the group was made, µs. From `cpu.stat`, which every
/// group has, with or without the cpu controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CpuStat {
    /// In user mode.
    pub user_us: Option<u64>,
    /// In the kernel.
    pub system_us: Option<u64>,
}

/// How often a group met its memory limit. From `memory.events`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryEvents {
    /// An allocation failed or was about to, at `memory.max`.
    pub oom: Option<u64>,
    /// Processes killed for it.
    pub oom_kill: Option<u64>,
    /// Times the whole group was killed at once (`memory.oom.group`); kernel 5.17 and later.
    pub oom_group_kill: Option<u64>,
}

/// The value of `key` in a flat-keyed file: one `KEY VALUE` a line.
pub(super) fn flat_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        if name == key { value.trim().parse().ok() } else { None }
    })
}

/// The number in a file of one number. `max` is no number.
pub(super) fn single_value(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Reads `cpu.stat`.
#[must_use]
pub fn cpu_stat(text: &str) -> CpuStat {
    CpuStat { user_us: flat_value(text, "user_usec"), system_us: flat_value(text, "system_usec") }
}

/// Reads `memory.events`.
#[must_use]
pub fn memory_events(text: &str) -> MemoryEvents {
    MemoryEvents {
        oom: flat_value(text, "oom"),
        oom_kill: flat_value(text, "oom_kill"),
        oom_group_kill: flat_value(text, "oom_group_kill"),
    }
}

/// Whether a process lives in the group or below it, from `cgroup.events`. A zombie does not count.
#[must_use]
pub fn populated(text: &str) -> Option<bool> {
    match flat_value(text, "populated")? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// Those of the controllers Stockade uses that `cgroup.controllers` or `cgroup.subtree_control` names.
pub(super) fn controllers(text: &str) -> Vec<Controller> {
    Controller::ALL
        .into_iter()
        .filter(|wanted| text.split_whitespace().any(|name| name == wanted.name()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CPU_STAT: &str = "usage_usec 13512\nuser_usec 4504\nsystem_usec 9008\nnr_periods 0\n";

    #[test]
    fn cpu_stat_gives_user_and_system_time() {
        let stat = cpu_stat(CPU_STAT);
        assert_eq!(stat, CpuStat { user_us: Some(4504), system_us: Some(9008) });
    }

    #[test]
    fn cpu_stat_without_a_key_gives_none_not_zero() {
        assert_eq!(cpu_stat("usage_usec 13512\nuser_usec 4504\n").system_us, None);
        assert_eq!(cpu_stat(""), CpuStat::default());
    }

    #[test]
    fn flat_value_of_a_longer_key_is_not_taken() {
        let text = "oom_kill 3\noom 7\n";
        assert_eq!(flat_value(text, "oom"), Some(7));
    }

    #[test]
    fn flat_value_that_is_not_a_number_is_none() {
        for text in
            ["user_usec -1", "user_usec", "user_usec ", "user_usec 18446744073709551616", "user_usec 1 2"]
        {
            assert_eq!(flat_value(text, "user_usec"), None, "{text}");
        }
    }

    #[test]
    fn memory_events_of_an_older_kernel_lack_group_kills() {
        let events = memory_events("low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\n");
        assert_eq!(events, MemoryEvents { oom: Some(1), oom_kill: Some(1), oom_group_kill: None });
    }

    #[test]
    fn populated_reads_both_answers_and_nothing_else() {
        assert_eq!(populated("populated 1\nfrozen 0\n"), Some(true));
        assert_eq!(populated("populated 0\nfrozen 0\n"), Some(false));
        assert_eq!(populated("populated 2\n"), None);
        assert_eq!(populated("frozen 0\n"), None);
    }

    #[test]
    fn single_value_of_max_is_none() {
        assert_eq!(single_value("33554432\n"), Some(33_554_432));
        assert_eq!(single_value("max\n"), None);
    }

    #[test]
    fn controllers_are_whole_words() {
        assert_eq!(controllers("cpuset cpu io memory hugetlb pids rdma misc\n"), Controller::ALL);
        assert_eq!(controllers("cpuset io memoryx\n"), []);
    }
}
