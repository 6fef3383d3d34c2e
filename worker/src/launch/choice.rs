//! What the user chooses by a flag, or else by a variable: one of a few words.

use super::LaunchError;

/// What is chosen: by the flag, which was checked with the others, or else by the variable.
pub(super) fn choose<'words>(
    flag: Option<&str>,
    variable: &str,
    words: &'words [&'words str],
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Option<&'words str>, LaunchError> {
    let Some(chosen) = flag.map(str::to_owned).or_else(|| lookup(variable)).filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let known = words.iter().copied().find(|word| *word == chosen);
    let wrong = || {
        let all: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
        LaunchError::Usage(format!("{variable}={chosen} is not one of the words for it: {}", all.join(" or ")))
    };
    known.map(Some).ok_or_else(wrong)
}

/// A variable of ours, as it will be shown.
pub(super) fn own(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod tests {
    use super::*;

    fn choose_of(flag: Option<&str>, value: Option<&str>) -> Result<Option<&'static str>, LaunchError> {
        choose(flag, "TRAINYARD_ON_HANG", &["report", "restart"], |_| value.map(str::to_owned))
    }

    #[test]
    fn the_flag_has_the_last_word_before_the_variable() {
        assert_eq!(choose_of(Some("report"), Some("restart")).unwrap(), Some("report"));
        assert_eq!(choose_of(None, Some("restart")).unwrap(), Some("restart"));
        assert_eq!(choose_of(None, Some("")).unwrap(), None);
        assert_eq!(choose_of(None, None).unwrap(), None);
    }

    #[test]
    fn an_unknown_word_is_refused_with_those_that_are_known() {
        let error = choose_of(None, Some("Restart")).unwrap_err().to_string();
        assert_eq!(error, "TRAINYARD_ON_HANG=Restart is not one of the words for it: `report` or `restart`");
    }
}
