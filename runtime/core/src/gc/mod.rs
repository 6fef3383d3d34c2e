//! Owner garbage collection and the emptying of namespaces, as decisions.
