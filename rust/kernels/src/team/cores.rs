//! How many threads this process may keep busy.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::thread;

/// Cores in the affinity mask, limited by the CPU quota of every cgroup above this process (v1 and v2); at least 1.
pub(super) fn available() -> usize {
    let quota = quota(Path::new("/proc/self/cgroup"), Path::new("/sys/fs/cgroup"));
    affinity().min(quota.unwrap_or(usize::MAX)).max(1)
}

#[cfg(target_os = "linux")]
fn affinity() -> usize {
    // A machine may have more cores than one cpu_set_t has bits: grow the mask until the kernel accepts it.
    for words in [16usize, 128, 1024] {
        let mut mask = vec![0u64; words];
        // SAFETY: the kernel writes at most `words * 8` bytes into `mask`, which has that many.
        let status = unsafe { libc::sched_getaffinity(0, words * 8, mask.as_mut_ptr().cast()) };
        if status == 0 {
            let cores: u32 = mask.iter().map(|word| word.count_ones()).sum();
            return cores as usize;
        }
    }
    parallelism()
}

#[cfg(not(target_os = "linux"))]
fn affinity() -> usize {
    parallelism()
}

fn parallelism() -> usize {
    thread::available_parallelism().map_or(1, NonZero::get)
}

/// The tightest quota in whole cores, rounded up: 1.5 cores are better used by two threads than by one.
fn quota(memberships: &Path, root: &Path) -> Option<usize> {
    let text = fs::read_to_string(memberships).ok()?;
    text.lines().filter_map(|line| group_quota(line, root)).reduce(f64::min).map(|cores| cores.ceil() as usize)
}

/// `line` is one of /proc/self/cgroup: `id:controllers:path`, with no controllers for v2.
fn group_quota(line: &str, root: &Path) -> Option<f64> {
    let mut fields = line.splitn(3, ':');
    let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
    let (top, read): (PathBuf, fn(&Path) -> Option<f64>) = if controllers.is_empty() {
        (root.to_owned(), quota_v2)
    } else if controllers.split(',').any(|name| name == "cpu") {
        let joined = root.join(controllers);
        (if joined.is_dir() { joined } else { root.join("cpu") }, quota_v1)
    } else {
        return None;
    };
    // Inside a container the path may not exist below the mount: then the mount itself is our group.
    let leaf = top.join(path.trim_start_matches('/'));
    leaf.ancestors().take_while(|group| group.starts_with(&top)).filter_map(read).reduce(f64::min)
}

fn quota_v2(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let mut fields = text.split_whitespace();
    cores(fields.next()?, fields.next()?)
}

fn quota_v1(group: &Path) -> Option<f64> {
    let quota = fs::read_to_string(group.join("cpu.cfs_quota_us")).ok()?;
    let period = fs::read_to_string(group.join("cpu.cfs_period_us")).ok()?;
    cores(quota.trim(), period.trim())
}

/// None for `max`, -1 and anything else that is no limit.
fn cores(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Self {
            let top = std::env::temp_dir().join(format!("ostro-cores-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = top.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Self(top)
        }

        fn quota(&self) -> Option<usize> {
            quota(&self.0.join("self"), &self.0.join("fs"))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn v2_takes_the_tightest_ancestor_and_rounds_up() {
        let tree = Tree::new(
            "v2",
            &[("self", "0::/a/b\n"), ("fs/a/cpu.max", "150000 100000\n"), ("fs/a/b/cpu.max", "max 100000\n")],
        );
        assert_eq!(tree.quota(), Some(2));
    }

    #[test]
    fn v1_reads_the_cpu_controller_only() {
        let tree = Tree::new(
            "v1",
            &[
                ("self", "5:memory:/x\n3:cpu,cpuacct:/x\n"),
                ("fs/cpu,cpuacct/x/cpu.cfs_quota_us", "300000\n"),
                ("fs/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
                ("fs/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
                ("fs/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ],
        );
        assert_eq!(tree.quota(), Some(3));
    }

    #[test]
    fn a_container_whose_path_is_not_mounted_uses_the_mount() {
        let tree = Tree::new("box", &[("self", "0::/gone\n"), ("fs/cpu.max", "50000 100000\n")]);
        assert_eq!(tree.quota(), Some(1));
    }

    #[test]
    fn no_limit_and_nonsense_are_no_quota() {
        let tree = Tree::new("none", &[("self", "0::/\nnonsense\n"), ("fs/cpu.max", "max 100000\n")]);
        assert_eq!(tree.quota(), None);
        assert_eq!(quota(Path::new("missing"), Path::new("missing")), None);
        assert!(available() >= 1);
    }
}
