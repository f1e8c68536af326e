//! What Linux reports about the memory available to a process, in `/proc` and in the files of its control groups.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use super::{MemoryLimit, MemoryRoom};

/// The least that any limit leaves. `root` is `/`, except in tests.
pub(super) fn room(root: &Path) -> Option<MemoryRoom> {
    let proc = root.join("proc");
    let limits = read_to_string(proc.join("self/limits")).unwrap_or_default();
    let status = read_to_string(proc.join("self/status")).unwrap_or_default();
    let machine = read_to_string(proc.join("meminfo")).unwrap_or_default();
    let swap = kibibytes(&machine, "SwapFree:").unwrap_or(0);
    let within = |limit: &str, used: &str| {
        let used = kibibytes(&status, used).unwrap_or(0);
        number_after(&limits, limit).map(|limit| limit.saturating_sub(used))
    };
    let all = [
        (
            within("Max address space", "VmSize:"),
            MemoryLimit::AddressSpace,
        ),
        (within("Max data size", "VmData:"), MemoryLimit::Data),
        (control_groups(root, swap), MemoryLimit::ControlGroup),
        (
            kibibytes(&machine, "MemAvailable:").map(|available| available + swap),
            MemoryLimit::Machine,
        ),
    ];
    all.into_iter()
        .filter_map(|(bytes, limit)| bytes.map(|bytes| MemoryRoom { bytes, limit }))
        .min_by_key(|room| room.bytes)
}

/// The number after `name` at the start of a line, or `None` for `unlimited` and `max`.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// A figure in kB, converted to bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    number_after(text, name)?.checked_mul(1024)
}

/// The number that is a file's only content.
fn number(path: PathBuf) -> Option<u64> {
    read_to_string(path).ok()?.trim().parse().ok()
}

/// File names in one version of control groups.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// Fields of `memory.stat` that count file pages. The kernel reclaims these when needed; a mapped checkpoint is
    /// mostly such pages.
    caches: [&'static str; 2],
}

const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    caches: ["total_inactive_file ", "total_active_file "],
};
const V2: Files = Files {
    limit: "memory.max",
    usage: "memory.current",
    caches: ["inactive_file ", "active_file "],
};

/// The least that the process's control group and its ancestors leave. Both versions may be mounted at once, only one
/// of which controls memory.
fn control_groups(root: &Path, swap: u64) -> Option<u64> {
    let groups = read_to_string(root.join("proc/self/cgroup")).ok()?;
    let mounts = read_to_string(root.join("proc/self/mountinfo")).ok()?;
    let mut least: Option<u64> = None;
    for group in groups.lines() {
        let mut fields = group.splitn(3, ':');
        let (_, Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let files = match controllers {
            "" => V2,
            _ if controllers.split(',').any(|name| name == "memory") => V1,
            _ => continue,
        };
        let is_v2 = controllers.is_empty();
        for (mount, folder) in mounts.lines().filter_map(|line| folder(line, is_v2, path)) {
            let (mount, folder) = (under(root, &mount), under(root, &folder));
            let levels = folder.ancestors().take_while(|at| at.starts_with(&mount));
            for left in levels.filter_map(|at| left(at, &files, is_v2, swap)) {
                least = Some(least.map_or(left, |least| least.min(left)));
            }
        }
    }
    least
}

fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The mount point of the hierarchy in a line of `mountinfo`, and the folder of the group `path` below it. In a
/// container, the mount may start at the container's own group, whose path outside may be unknown.
fn folder(line: &str, is_v2: bool, path: &str) -> Option<(PathBuf, PathBuf)> {
    let (mount, system) = line.split_once(" - ")?;
    let mut system = system.split(' ');
    let is_wanted = match system.next()? {
        "cgroup2" => is_v2,
        "cgroup" => !is_v2 && system.nth(1)?.split(',').any(|option| option == "memory"),
        _ => false,
    };
    let mut fields = mount.split(' ').skip(3);
    let (from, at) = (fields.next()?, fields.next()?.replace("\\040", " "));
    let at = PathBuf::from(at);
    let below = Path::new(path).strip_prefix(from).unwrap_or(Path::new(""));
    let below = match below.components().any(|part| part.as_os_str() == "..") {
        true => Path::new(""),
        false => below,
    };
    let folder = at.join(below);
    is_wanted.then_some((at, folder))
}

/// What one group leaves, if it has a limit.
fn left(group: &Path, files: &Files, is_v2: bool, swap: u64) -> Option<u64> {
    let limit = number(group.join(files.limit))?;
    let usage = number(group.join(files.usage)).unwrap_or(0);
    let stat = read_to_string(group.join("memory.stat")).unwrap_or_default();
    let caches = files.caches.map(|name| number_after(&stat, name));
    let caches: u64 = caches.into_iter().flatten().sum();
    let left = limit
        .saturating_sub(usage)
        .saturating_add(caches.min(usage));
    let swap = match is_v2 {
        true => match number(group.join("memory.swap.max")) {
            Some(limit) => {
                let usage = number(group.join("memory.swap.current")).unwrap_or(0);
                swap.min(limit.saturating_sub(usage))
            }
            None => swap,
        },
        // This limit covers memory and swap together.
        false => match number(group.join("memory.memsw.limit_in_bytes")) {
            Some(both) => {
                let usage_both = number(group.join("memory.memsw.usage_in_bytes")).unwrap_or(0);
                let left = limit.saturating_sub(usage);
                swap.min(both.saturating_sub(usage_both).saturating_sub(left))
            }
            None => swap,
        },
    };
    Some(left.saturating_add(swap))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A simulated machine in a temporary folder, removed when the test is over.
    struct Machine(PathBuf);

    impl Machine {
        fn new(name: &str) -> Self {
            let folder = format!("esolm-memory-{name}-{}", std::process::id());
            let machine = Self(std::env::temp_dir().join(folder));
            machine.file("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 4000 kB\nSwapTotal: 9 kB\nSwapFree: 0 kB\n");
            machine.file(
                "proc/self/status",
                "Name:\tesolm\nVmPeak:\t 900 kB\nVmSize:\t 500 kB\nVmData:\t 200 kB\n",
            );
            machine.file(
                "proc/self/limits",
                "Limit                     Soft Limit           Hard Limit           Units     \n\
                 Max data size             unlimited            unlimited            bytes     \n\
                 Max address space         unlimited            unlimited            bytes     \n",
            );
            machine
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            std::fs::write(path, text).expect("a file");
        }

        fn room(&self) -> Option<(u64, MemoryLimit)> {
            room(&self.0).map(|room| (room.bytes, room.limit))
        }
    }

    impl Drop for Machine {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    const K: u64 = 1024;

    #[test]
    fn without_limits_it_is_what_the_machine_has() {
        let machine = Machine::new("plain");
        assert_eq!(machine.room(), Some((4000 * K, MemoryLimit::Machine)));
        machine.file("proc/meminfo", "MemAvailable: 4000 kB\nSwapFree: 500 kB\n");
        assert_eq!(machine.room(), Some((4500 * K, MemoryLimit::Machine)));
        // A system that reports nothing limits nothing.
        assert_eq!(room(&machine.0.join("nothing")), None);
    }

    #[test]
    fn limits_of_the_process_count_what_it_has() {
        let machine = Machine::new("process");
        machine.file(
            "proc/self/limits",
            "Max data size             unlimited            unlimited            bytes\n\
             Max address space         1024000              unlimited            bytes\n",
        );
        assert_eq!(machine.room(), Some((500 * K, MemoryLimit::AddressSpace)));
        machine.file(
            "proc/self/limits",
            "Max data size             204800               unlimited            bytes\n\
             Max address space         1024000              unlimited            bytes\n",
        );
        assert_eq!(machine.room(), Some((0, MemoryLimit::Data)));
    }

    #[test]
    fn a_control_group_of_version_2_and_those_around_it() {
        let machine = Machine::new("v2");
        machine.file("proc/self/cgroup", "0::/outer/inner\n");
        machine.file(
            "proc/self/mountinfo",
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n\
             31 23 0:27 / /tmp rw - tmpfs tmpfs rw\n",
        );
        let group = |name: &str, limit: &str, usage: u64, cached: u64| {
            let at = format!("sys/fs/cgroup/{name}");
            machine.file(&format!("{at}/memory.max"), limit);
            machine.file(&format!("{at}/memory.current"), &format!("{usage}\n"));
            let stat = format!("anon 7\nfile {cached}\ninactive_file {cached}\nactive_file 0\n");
            machine.file(&format!("{at}/memory.stat"), &stat);
        };
        group("outer", "max\n", 900, 0);
        group("outer/inner", "3000\n", 1000, 400);
        let of_group = |bytes| Some((bytes, MemoryLimit::ControlGroup));
        assert_eq!(machine.room(), of_group(2400));
        group("outer", "2000\n", 1500, 0);
        assert_eq!(machine.room(), of_group(500));
        // Swap that the group may use counts, as long as there is some.
        machine.file("proc/meminfo", "MemAvailable: 4000 kB\nSwapFree: 500 kB\n");
        machine.file("sys/fs/cgroup/outer/memory.swap.max", "100\n");
        machine.file("sys/fs/cgroup/outer/memory.swap.current", "40\n");
        assert_eq!(machine.room(), of_group(560));
        group("outer", "max\n", 900, 0);
        machine.file("sys/fs/cgroup/outer/inner/memory.swap.max", "0\n");
        assert_eq!(machine.room(), of_group(2400));
    }

    #[test]
    fn a_control_group_of_version_1_beside_version_2() {
        let machine = Machine::new("v1");
        machine.file(
            "proc/self/cgroup",
            "5:devices:/\n4:cpu,memory:/docker/a b/inner\n0::/\n",
        );
        machine.file(
            "proc/self/mountinfo",
            "33 31 0:29 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
             35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,cpu,memory\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
        );
        let at = "sys/fs/cgroup/memory/docker/a b";
        let none = "9223372036854771712\n";
        machine.file("sys/fs/cgroup/memory/memory.limit_in_bytes", none);
        machine.file(&format!("{at}/memory.limit_in_bytes"), "5000\n");
        machine.file(&format!("{at}/memory.usage_in_bytes"), "2000\n");
        machine.file(
            &format!("{at}/memory.stat"),
            "inactive_file 1\ntotal_inactive_file 100\ntotal_active_file 50\n",
        );
        machine.file(&format!("{at}/inner/memory.limit_in_bytes"), none);
        assert_eq!(machine.room(), Some((3150, MemoryLimit::ControlGroup)));
    }

    #[test]
    fn a_mount_that_begins_at_the_containers_group() {
        let machine = Machine::new("container");
        machine.file("proc/self/cgroup", "4:memory:/docker/1234\n");
        machine.file(
            "proc/self/mountinfo",
            "35 31 0:32 /docker/1234 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
        );
        machine.file("sys/fs/cgroup/memory/memory.limit_in_bytes", "700\n");
        machine.file("sys/fs/cgroup/memory/memory.usage_in_bytes", "200\n");
        assert_eq!(machine.room(), Some((500, MemoryLimit::ControlGroup)));
        // In its own namespace, a group may see its path as outside the mount.
        machine.file("proc/self/cgroup", "4:memory:/../elsewhere\n");
        assert_eq!(machine.room(), Some((500, MemoryLimit::ControlGroup)));
    }
}
