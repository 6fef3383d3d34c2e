//! Many variables of a launcher as one. An API server keeps for each variable of a container who set it, and looks at that with every
//! write of the pod: told one by one, a launcher's dozen is a third of what making its pod costs the server.

/// The variable in which the others are.
pub const VARIABLE: &str = "TRAINYARD_TOLD";

/// Whether a value can be among others: each has its line, and in what a container is told Kubernetes replaces `$(NAME)`.
#[must_use]
pub fn fits(value: &str) -> bool {
    !value.contains(['\n', '$'])
}

/// The variables as the value of one.
pub fn pack<'text>(variables: impl IntoIterator<Item = (&'text str, &'text str)>) -> String {
    let lines: Vec<String> = variables.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    lines.join("\n")
}

/// The variables again.
pub fn unpack(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split('\n').filter_map(|line| line.split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_there_again() {
        let variables = [("A", "1"), ("B", ""), ("C", "x=y z"), ("D", "\"quoted\"\r")];
        assert!(variables.iter().all(|(_, value)| fits(value)));
        let packed = pack(variables);
        assert_eq!(unpack(&packed).collect::<Vec<_>>(), variables);
        assert_eq!(unpack("").count(), 0);
    }

    #[test]
    fn what_would_change_on_the_way_does_not_fit() {
        assert!(!fits("two\nlines"));
        assert!(!fits("$(POD_NAME)/data"));
    }
}
