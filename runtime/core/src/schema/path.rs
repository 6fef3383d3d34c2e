//! The path of a field, written as Kubernetes writes it: `spec.containers[0].env[FOO].value`.

use std::fmt;

/// A field inside an object. A linked list on the stack: walking a tree allocates nothing until something is reported.
#[derive(Debug, Clone, Copy)]
pub struct FieldPath<'a> {
    parent: Option<&'a Self>,
    step: Step<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Step<'a> {
    Root,
    Field(&'a str),
    Key(&'a str),
    Index(usize),
}

impl<'a> FieldPath<'a> {
    /// The object itself.
    pub const ROOT: FieldPath<'static> = FieldPath { parent: None, step: Step::Root };

    /// A named field of this one.
    pub fn field(&'a self, name: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Field(name) }
    }

    /// The value of a map key.
    pub fn key(&'a self, key: &'a str) -> Self {
        Self { parent: Some(self), step: Step::Key(key) }
    }

    /// The name of the field, if this is one.
    pub fn name(&self) -> Option<&'a str> {
        match self.step {
            Step::Field(name) => Some(name),
            Step::Root | Step::Key(_) | Step::Index(_) => None,
        }
    }

    /// An item of a list.
    pub fn index(&'a self, index: usize) -> Self {
        Self { parent: Some(self), step: Step::Index(index) }
    }
}

impl fmt::Display for FieldPath<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut steps = Vec::new();
        let mut next = Some(self);
        while let Some(path) = next {
            steps.push(path.step);
            next = path.parent;
        }
        let mut first = true;
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => continue,
                Step::Field(name) if first => write!(out, "{name}")?,
                Step::Field(name) => write!(out, ".{name}")?,
                Step::Key(key) => write!(out, "[{key}]")?,
                Step::Index(index) => write!(out, "[{index}]")?,
            }
            first = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::FieldPath;

    #[test]
    fn is_written_as_kubernetes_writes_it() {
        let root = FieldPath::ROOT;
        let spec = root.field("spec");
        let replicas = spec.field("pytorchReplicaSpecs");
        let worker = replicas.key("Worker");
        let containers = worker.field("containers");
        assert_eq!(containers.index(2).to_string(), "spec.pytorchReplicaSpecs[Worker].containers[2]");
        assert_eq!(root.to_string(), "");
    }
}
