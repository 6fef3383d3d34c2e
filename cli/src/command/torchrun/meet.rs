//! How the launchers of several nodes meet, where no coordinator leads them.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _, UdpSocket};

use trainyard_worker::host;
use trainyard_worker::launch::link::Meeting;

use super::option;
use super::plan::{self, Plan};
use crate::meeting::is_loopback;

/// torch's own, where the endpoint has no port.
const PORT: u16 = 29400;
/// torch's own, in seconds.
const JOIN_SECONDS: i64 = 600;
const LAST_CALL_SECONDS: i64 = 30;
const KEEP_ALIVE_SECONDS: i64 = 5;
const KEEP_ALIVES: i64 = 3;
/// No timeout is longer.
const MOST_SECONDS: i64 = 366 * 24 * 3600;

/// What the launcher is told.
pub(super) fn meeting(plan: &Plan) -> Result<Meeting, String> {
    let is_static = plan.rdzv_backend == "static";
    if plan.rdzv_backend.starts_with("etcd") {
        return Err(format!(
            "--rdzv-backend {}: no etcd is needed here, the nodes meet at one of them; give --rdzv-backend c10d \
             --rdzv-endpoint HOST:PORT with the address of that node",
            plan.rdzv_backend
        ));
    }
    if is_static && plan.min_nodes < plan.max_nodes {
        return Err(format!(
            "--nnodes {}:{}: a static rendezvous has a fixed number; for nodes that come and go give --rdzv-backend c10d \
             --rdzv-endpoint HOST:PORT",
            plan.min_nodes, plan.max_nodes
        ));
    }
    let (host, port) = match &plan.master {
        Some((host, port)) => (host.clone(), *port),
        None => {
            let (host, port) = plan::host_and_port(&plan.rdzv_endpoint)?;
            (host, port.unwrap_or(PORT))
        }
    };
    let is_host = if is_static { Some(plan.node_rank == 0) } else { is_host(&plan.rdzv_configs)? };
    if port == 0 && plan.min_nodes > 1 {
        return Err(format!("{host}:0 is a port that the other nodes cannot know; give one that is free there"));
    }
    let count = |nodes: i64| u32::try_from(nodes).map_err(|_| format!("--nnodes {nodes} are too many"));
    let index = u32::try_from(plan.node_rank).ok().filter(|_| is_static);
    if is_static && index.is_none_or(|index| i64::from(index) >= plan.max_nodes) {
        return Err(format!("--node-rank {} is not one of {} nodes, counted from 0", plan.node_rank, plan.max_nodes));
    }
    let seconds = |name: &str, default| seconds(&plan.rdzv_configs, name, default);
    let join = seconds("join_timeout", seconds("timeout", JOIN_SECONDS)?)?;
    let away = seconds("keep_alive_interval", KEEP_ALIVE_SECONDS)? * seconds("keep_alive_max_attempt", KEEP_ALIVES)?;
    Ok(Meeting {
        host,
        port,
        is_host,
        id: plan.run_id.clone().unwrap_or_default(),
        index,
        least: count(plan.min_nodes)?,
        most: count(plan.max_nodes)?,
        max_restarts: u32::try_from(plan.max_restarts).unwrap_or(u32::MAX),
        join_ms: join * 1000,
        last_call_ms: seconds("last_call_timeout", LAST_CALL_SECONDS)? * 1000,
        away_ms: away.min(MOST_SECONDS) * 1000,
    })
}

fn is_host(configs: &BTreeMap<String, String>) -> Result<Option<bool>, String> {
    let Some(text) = configs.get("is_host") else { return Ok(None) };
    match text.to_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" => Ok(Some(true)),
        "0" | "false" | "f" | "no" | "n" => Ok(Some(false)),
        _ => Err(format!("--rdzv-conf is_host={text} is neither true nor false")),
    }
}

fn seconds(configs: &BTreeMap<String, String>, name: &str, default: i64) -> Result<i64, String> {
    let Some(text) = configs.get(name) else { return Ok(default) };
    let number = option::integer(text).filter(|number| (1..=MOST_SECONDS).contains(number));
    number.ok_or(format!("--rdzv-conf {name}={text} is not a number of seconds above 0"))
}

/// Where the other nodes reach this one: what the user says, else the address from which this one reaches the endpoint.
pub(super) fn own_address(plan: &Plan, meeting: &Meeting) -> String {
    if let Some(address) = &plan.local_addr {
        return address.clone();
    }
    let found = (meeting.host.as_str(), meeting.port).to_socket_addrs();
    let endpoint = found.ok().and_then(|mut all| all.find(SocketAddr::is_ipv4));
    // No packet is sent. An address for documentation stands for all that is far away.
    let towards = |to: SocketAddr| {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect(to).ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    };
    let far = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), PORT));
    let usable = |ip: &IpAddr| is_loopback(&meeting.host) || !ip.is_loopback();
    let near = endpoint.map(|to| SocketAddr::new(to.ip(), PORT)).and_then(towards).filter(usable);
    let ip = near.or_else(|| towards(far));
    ip.map_or_else(host::name, |ip| ip.to_string())
}

/// A name of this launcher that no other has.
pub(super) fn own_name(meeting: &Meeting) -> String {
    match meeting.index {
        // A launcher that comes back to its place replaces the one that was there.
        Some(index) => format!("node-{index}"),
        None => {
            let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            format!("{}-{}-{:x}", host::name(), std::process::id(), since.as_micros())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::option::{Parsed, parse};
    use super::*;

    fn plan(line: &str) -> Plan {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match parse(&words, |_| None) {
            Ok(Parsed::Run(given)) => Plan::of(&given, |_| None).unwrap(),
            Ok(Parsed::Help) | Err(_) => panic!("{line}"),
        }
    }

    fn of(line: &str) -> Result<Meeting, String> {
        meeting(&plan(line))
    }

    #[test]
    fn nodes_that_find_each_other_have_torchs_defaults() {
        let met = of("--nnodes 1:4 --max-restarts 3 --rdzv-backend c10d --rdzv-id j --rdzv-endpoint h t.py").unwrap();
        assert_eq!((met.host.as_str(), met.port, met.is_host, met.index), ("h", 29400, None, None));
        assert_eq!((met.least, met.most, met.max_restarts, met.id.as_str()), (1, 4, 3, "j"));
        assert_eq!((met.join_ms, met.last_call_ms, met.away_ms), (600_000, 30_000, 15_000));
        let conf = "join_timeout=7,last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=2,is_host=True";
        let met = of(&format!("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h:5 --rdzv-conf {conf} t.py")).unwrap();
        assert_eq!((met.join_ms, met.last_call_ms, met.away_ms, met.is_host), (7_000, 1_000, 2_000, Some(true)));
    }

    #[test]
    fn a_static_rendezvous_has_places_and_its_first_node_serves_it() {
        let met = of("--nnodes 2 --node-rank 1 --master-addr m --master-port 7 t.py").unwrap();
        assert_eq!((met.host.as_str(), met.port, met.is_host, met.index), ("m", 7, Some(false), Some(1)));
        assert_eq!(own_name(&met), "node-1");
        assert_eq!(of("--nnodes 2 t.py").unwrap().is_host, Some(true));
    }

    #[test]
    fn what_cannot_be_is_said_with_what_can() {
        let refused = |line: &str| of(line).unwrap_err();
        let etcd = refused("--nnodes 2 --rdzv-backend etcd-v2 --rdzv-endpoint e:2379 t.py");
        assert!(etcd.contains("give --rdzv-backend c10d --rdzv-endpoint HOST:PORT"), "{etcd}");
        assert!(refused("--nnodes 1:2 --master-port 7 t.py").contains("--rdzv-backend c10d"));
        assert!(refused("--nnodes 2 --node-rank 2 t.py").contains("counted from 0"));
        assert!(refused("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h:0 t.py").contains("cannot know"));
        for conf in ["join_timeout=x", "last_call_timeout=0", "is_host=perhaps"] {
            let line = format!("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint h:1 --rdzv-conf {conf} t.py");
            assert!(refused(&line).contains(conf), "{conf}");
        }
    }

    #[test]
    fn the_other_nodes_are_told_an_address_that_they_can_reach() {
        let near = plan("--nnodes 2 --rdzv-backend c10d --rdzv-endpoint localhost:5 t.py");
        assert_eq!(own_address(&near, &meeting(&near).unwrap()), "127.0.0.1");
        let told = plan("--nnodes 2 --local-addr 10.1.1.1 --rdzv-backend c10d --rdzv-endpoint localhost:5 t.py");
        assert_eq!(own_address(&told, &meeting(&told).unwrap()), "10.1.1.1");
        let one = meeting(&near).unwrap();
        assert!(own_name(&one).contains('-'));
    }
}
