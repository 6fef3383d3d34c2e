//! Why a node refuses a pod that it can never run as it is: the reasons that the node agent writes into the status of
//! the pod, which is then `Failed`, and that controllers read. Trying again does not help; changing the manifest does, or
//! how the node runs containers.

/// A reason for which a pod can never run on this kind of node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// A container has no command, and the node does not know its image's entrypoint.
    CommandRequired,
    /// A container has no image, and the node runs nothing else.
    ImageRequired,
    /// A volume is of a kind that the node cannot provide.
    VolumeNotAvailable,
    /// A volume cannot be put where the container wants it.
    VolumeNotMountable,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::CommandRequired, Self::ImageRequired, Self::VolumeNotAvailable, Self::VolumeNotMountable];

    /// `status.reason` of the refused pod.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::CommandRequired => "CommandRequired",
            Self::ImageRequired => "ImageRequired",
            Self::VolumeNotAvailable => "VolumeNotAvailable",
            Self::VolumeNotMountable => "VolumeNotMountable",
        }
    }

    /// The refusal that a pod's `status.reason` names.
    #[must_use]
    pub fn of(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| refusal.reason() == reason)
    }
}
