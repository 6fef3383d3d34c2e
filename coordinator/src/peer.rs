//! Asks the API server which other schedulers it has objects of.

use std::collections::{BTreeMap, BTreeSet};

use trainyard_coordinator_core::peer::Peers;

/// What there is now: what is installed later is found when the next operator begins to lead.
pub(crate) async fn discover(client: &kube::Client) -> Result<Peers, kube::Error> {
    let groups = client.list_api_groups().await?.groups;
    let versions: BTreeSet<String> =
        groups.into_iter().flat_map(|group| group.versions).map(|version| version.group_version).collect();
    let mut served = BTreeMap::new();
    for version in Peers::versions().into_iter().filter(|version| versions.contains(*version)) {
        let resources = client.list_api_group_resources(version).await?.resources;
        served.insert(version.to_owned(), resources.into_iter().map(|resource| resource.name).collect());
    }
    let peers = Peers::of(&served);
    tracing::info!(
        native = peers.native,
        kueue = peers.kueue,
        volcano = peers.volcano,
        queues = peers.queues.get("ClusterQueue"),
        "other schedulers of the cluster"
    );
    Ok(peers)
}
