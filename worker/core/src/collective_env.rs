//! The environment in which NCCL and gloo work well, as a pure function: what a rank is told beside torchrun's variables.
//!
//! A variable that the user has set, to whatever, stays the user's: nothing here replaces it, and nothing is added that
//! would change what it means.

/// The ports at which NCCL's RAS service of a job may listen: below those that the system gives out by itself.
const RAS_PORTS: std::ops::Range<u64> = 28_100..32_000;
/// Events that PyTorch's flight recorder keeps: the last few seconds of a busy job, in about a megabyte.
const TRACE_EVENTS: &str = "2000";

/// How the names of the flight recorder's files begin.
pub const TRACE: &str = "nccl-trace-";
/// NCCL's variable for where it writes its debug output.
pub const DEBUG_FILE: &str = "NCCL_DEBUG_FILE";

/// Who the rank is, and what it has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// `namespace/name` of the job, or whatever tells it from others on its machines.
    pub job: String,
    /// The job's incarnation.
    pub generation: u64,
    /// The rank in the job.
    pub rank: usize,
    /// Whether the pod has GPUs.
    pub gpus: bool,
    /// Whether it has fewer of them than ranks.
    pub shares_gpus: bool,
    /// The network interface by which the other pods are reached, where it is known.
    pub interface: Option<String>,
    /// An existing folder for debug files, which outlives the rank.
    pub folder: Option<String>,
    /// Whether the program joins again after a failure without being started again.
    pub stays: bool,
}

/// What `place` should have in its environment; `lookup` knows what is there already.
///
/// - The interface for gloo, NCCL and tensorpipe; not at all if the user chose one for any of them.
/// - NCCL's magic of this job and generation: processes of others that call the wrong port are told apart (NCCL 2.30).
/// - NCCL's RAS service at a port of this job's own, so that two jobs of one machine do not answer for each other.
/// - Warnings of NCCL in a file per rank, and PyTorch's flight recorder, which tells after a timeout who was where.
/// - Where ranks share a GPU: leave to do so.
/// - For programs that stay: CUDA errors do not end the process, and no NVLink SHARP, which cannot be set up again.
#[must_use]
pub fn variables(place: &Place, lookup: impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let mut chosen = Vec::new();
    if let Some(interface) = &place.interface {
        let names = ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"];
        if names.iter().all(|name| lookup(name).is_none()) {
            // `=` makes NCCL take this very interface, not all whose names begin so. The others know no such sign.
            chosen.extend([
                ("GLOO_SOCKET_IFNAME", interface.clone()),
                ("NCCL_SOCKET_IFNAME", format!("={interface}")),
                ("TP_SOCKET_IFNAME", interface.clone()),
            ]);
        }
    }
    if place.gpus {
        chosen.extend(for_gpus(place, &lookup));
    }
    chosen.retain(|(name, _)| lookup(name).is_none());
    chosen
}

fn for_gpus(place: &Place, lookup: &impl Fn(&str) -> Option<String>) -> Vec<(&'static str, String)> {
    let job = fingerprint(&place.job);
    let magic = fingerprint(&format!("{}#{}", place.job, place.generation));
    let mut chosen = vec![
        ("NCCL_SOCKET_MAGIC", (magic >> 1).to_string()),
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1".to_owned()),
        ("TORCH_NCCL_TRACE_BUFFER_SIZE", TRACE_EVENTS.to_owned()),
        ("TORCH_NCCL_DUMP_ON_TIMEOUT", "1".to_owned()),
    ];
    if lookup("NCCL_RAS_ENABLE").is_none_or(|value| value != "0") {
        let port = RAS_PORTS.start + job % (RAS_PORTS.end - RAS_PORTS.start);
        chosen.push(("NCCL_RAS_ENABLE", "1".to_owned()));
        chosen.push(("NCCL_RAS_ADDR", format!("localhost:{port}")));
    }
    if let Some(folder) = &place.folder {
        let Place { generation, rank, .. } = place;
        // Whoever asks NCCL for more wants to see it, where NCCL writes it by itself.
        if lookup("NCCL_DEBUG").is_none() && lookup(DEBUG_FILE).is_none() {
            chosen.push(("NCCL_DEBUG", "WARN".to_owned()));
            chosen.push((DEBUG_FILE, debug_file(folder, *generation, *rank)));
        }
        // PyTorch adds the rank itself.
        chosen.push(("TORCH_NCCL_DEBUG_INFO_TEMP_FILE", format!("{folder}/{TRACE}generation-{generation}-rank-")));
    }
    if place.shares_gpus {
        // Since NCCL 2.30; older ones refuse such a group in any case. NVLink SHARP knows only whole GPUs.
        chosen.push(("NCCL_MULTI_RANK_GPU_ENABLE", "1".to_owned()));
        chosen.push(("NCCL_NVLS_ENABLE", "0".to_owned()));
    } else if place.stays {
        chosen.push(("NCCL_NVLS_ENABLE", "0".to_owned()));
    }
    if place.stays {
        chosen.push(("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0".to_owned()));
    }
    chosen
}

/// The file of a rank's warnings.
#[must_use]
pub fn debug_file(folder: &str, generation: u64, rank: usize) -> String {
    format!("{folder}/nccl-generation-{generation}-rank-{rank}.log")
}

/// FNV-1a: the same number for the same text on every machine and in every version.
fn fingerprint(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place {
            job: "default/wine".to_owned(),
            generation: 3,
            rank: 5,
            gpus: true,
            shares_gpus: false,
            interface: Some("eth0".to_owned()),
            folder: Some("/logs".to_owned()),
            stays: true,
        }
    }

    fn told(place: &Place, users: &[(&str, &str)], name: &str) -> Option<String> {
        let lookup = |name: &str| users.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        variables(place, lookup).into_iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    #[test]
    fn a_rank_with_a_gpu_is_told_everything() {
        let told = |name| told(&place(), &[], name);
        assert_eq!(told("GLOO_SOCKET_IFNAME").as_deref(), Some("eth0"));
        assert_eq!(told("NCCL_SOCKET_IFNAME").as_deref(), Some("=eth0"));
        assert_eq!(told("NCCL_DEBUG_FILE").as_deref(), Some("/logs/nccl-generation-3-rank-5.log"));
        assert_eq!(told("NCCL_RAS_ENABLE").as_deref(), Some("1"));
        assert_eq!(told("NCCL_NVLS_ENABLE").as_deref(), Some("0"));
        assert_eq!(told("TORCH_NCCL_ASYNC_ERROR_HANDLING").as_deref(), Some("1"));
    }

    #[test]
    fn what_the_user_has_set_is_never_touched() {
        let all = variables(&place(), |_| None);
        // Each variable in turn is the user's, also when it is empty.
        for (name, _) in &all {
            for value in ["", "0", "theirs"] {
                let now = variables(&place(), |asked| (asked == *name).then(|| value.to_owned()));
                assert!(now.iter().all(|(known, _)| known != name), "{name}={value}");
            }
        }
        assert!(variables(&place(), |_| Some("theirs".to_owned())).is_empty());
    }

    #[test]
    fn what_would_change_the_users_choice_is_not_added() {
        assert_eq!(told(&place(), &[("NCCL_SOCKET_IFNAME", "ib0")], "GLOO_SOCKET_IFNAME"), None);
        assert_eq!(told(&place(), &[("NCCL_RAS_ENABLE", "0")], "NCCL_RAS_ADDR"), None);
        assert_eq!(told(&place(), &[("NCCL_DEBUG", "INFO")], "NCCL_DEBUG_FILE"), None, "it is on their screen");
    }

    #[test]
    fn ranks_that_share_a_gpu_have_leave_to() {
        let shared = Place { shares_gpus: true, stays: false, ..place() };
        assert_eq!(told(&shared, &[], "NCCL_MULTI_RANK_GPU_ENABLE").as_deref(), Some("1"));
        assert_eq!(told(&shared, &[], "NCCL_NVLS_ENABLE").as_deref(), Some("0"));
        assert_eq!(told(&place(), &[], "NCCL_MULTI_RANK_GPU_ENABLE"), None);
    }

    #[test]
    fn without_gpus_only_the_interface_is_chosen() {
        let place = Place { gpus: false, ..place() };
        let names: Vec<_> = variables(&place, |_| None).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"]);
        assert!(variables(&Place { interface: None, ..place }, |_| None).is_empty());
    }

    #[test]
    fn jobs_and_generations_are_told_apart_and_ranks_are_not() {
        let magic = |place: &Place| told(place, &[], "NCCL_SOCKET_MAGIC");
        let ras = |place: &Place| told(place, &[], "NCCL_RAS_ADDR");
        let (one, other) = (place(), Place { rank: 0, ..place() });
        assert_eq!((magic(&one), ras(&one)), (magic(&other), ras(&other)));
        let later = Place { generation: 4, ..place() };
        assert_ne!(magic(&one), magic(&later));
        assert_eq!(ras(&one), ras(&later), "the service of a job stays where it is");
        let stranger = Place { job: "default/other".to_owned(), ..place() };
        assert_ne!((magic(&one), ras(&one)), (magic(&stranger), ras(&stranger)));
    }
}
