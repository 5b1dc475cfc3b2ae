//! How much the last-level caches hold.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Bytes of the last-level caches of all processors together; None where Linux does not tell.
#[must_use]
pub fn cache_bytes() -> Option<usize> {
    last_level(Path::new("/sys/devices/system/cpu"))
}

fn last_level(processors: &Path) -> Option<usize> {
    // Processors that share a cache name the same ones beside it: it counts once.
    let mut caches = BTreeMap::new();
    for processor in fs::read_dir(processors).ok()?.flatten() {
        let Ok(indices) = fs::read_dir(processor.path().join("cache")) else { continue };
        let found = indices.flatten().filter_map(|index| {
            let read = |name: &str| fs::read_to_string(index.path().join(name)).ok();
            let level: u32 = read("level")?.trim().parse().ok()?;
            Some((level, size(&read("size")?)?, read("shared_cpu_list")?))
        });
        if let Some((level, size, shared)) = found.max_by_key(|(level, size, _)| (*level, *size)) {
            caches.insert((level, shared), size);
        }
    }
    let deepest = caches.keys().map(|(level, _)| *level).max()?;
    Some(caches.iter().filter(|((level, _), _)| *level == deepest).map(|(_, size)| size).sum())
}

/// A size as sysfs writes it: `32768K`, rarely `M` or `G`.
fn size(text: &str) -> Option<usize> {
    let text = text.trim();
    let unit = match text.bytes().last()? {
        b'K' => 1 << 10,
        b'M' => 1 << 20,
        b'G' => 1 << 30,
        _ => 1,
    };
    let number: usize = text.trim_end_matches(['K', 'M', 'G']).parse().ok()?;
    number.checked_mul(unit).filter(|bytes| *bytes > 0)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    struct Tree(PathBuf);

    impl Tree {
        /// Caches as (processor, index, level, size, shared).
        fn new(name: &str, caches: &[(u32, u32, u32, &str, &str)]) -> Self {
            let top = std::env::temp_dir().join(format!("ostro-cache-{}-{name}", std::process::id()));
            fs::create_dir_all(top.join("cpuidle")).unwrap();
            for (processor, index, level, size, shared) in caches {
                let cache = top.join(format!("cpu{processor}/cache/index{index}"));
                fs::create_dir_all(&cache).unwrap();
                fs::write(cache.join("level"), format!("{level}\n")).unwrap();
                fs::write(cache.join("size"), format!("{size}\n")).unwrap();
                fs::write(cache.join("shared_cpu_list"), format!("{shared}\n")).unwrap();
            }
            Self(top)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_shared_cache_counts_once_and_lower_levels_do_not_count() {
        let tree =
            Tree::new("shared", &[(0, 0, 1, "32K", "0"), (0, 3, 3, "32768K", "0-1"), (1, 3, 3, "32768K", "0-1")]);
        assert_eq!(last_level(&tree.0), Some(32 << 20));
    }

    #[test]
    fn caches_of_several_groups_add_up() {
        let caches = [(0, 3, 3, "16M", "0-1"), (1, 3, 3, "16M", "0-1"), (2, 3, 3, "8M", "2"), (3, 2, 2, "512K", "3")];
        assert_eq!(last_level(&Tree::new("groups", &caches).0), Some(24 << 20));
    }

    #[test]
    fn nothing_and_nonsense_are_unknown() {
        assert_eq!(last_level(Path::new("missing")), None);
        assert_eq!(last_level(&Tree::new("none", &[(0, 3, 3, "K", "0"), (1, 3, 3, "0K", "1")]).0), None);
        assert_eq!(size("12"), Some(12));
        assert_eq!(size("1G"), Some(1 << 30));
        assert_eq!(size("99999999999999999999K"), None);
    }
}
