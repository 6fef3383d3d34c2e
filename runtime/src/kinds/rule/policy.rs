//! Rules of what a Job makes of failed pods, and of when it has succeeded.

use serde_json::Value;
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::selector::key_problems;

use super::pod::text;
use super::{Causes, list};

/// What may be done about a failed pod; `FailIndex` is one more, where indexes have limits.
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATUSES: [&str; 3] = ["False", "True", "Unknown"];
/// Of rules, and of conditions in one.
const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

impl Causes {
    /// `podFailurePolicy` and `successPolicy` of a Job's spec.
    pub(super) fn job_policies(&mut self, spec: &Value) {
        if spec["podFailurePolicy"].is_object() {
            let rules = list(&spec["podFailurePolicy"], "rules");
            let at = "spec.podFailurePolicy.rules";
            self.at_most(at, rules.len(), MOST_RULES);
            for (index, rule) in rules.iter().enumerate() {
                self.failure_rule(spec, rule, &format!("{at}[{index}]"));
            }
        }
        let policy = &spec["successPolicy"];
        if !policy.is_object() {
            return;
        }
        if spec["completionMode"] != "Indexed" {
            return self.invalid("spec.successPolicy", policy, "requires indexed completion mode");
        }
        let (rules, at) = (list(policy, "rules"), "spec.successPolicy.rules");
        if rules.is_empty() {
            self.needs(at, "at least one rules must be specified when the successPolicy is specified");
        }
        self.at_most(at, rules.len(), MOST_RULES);
        for (index, rule) in rules.iter().enumerate() {
            self.success_rule(spec, rule, &format!("{at}[{index}]"));
        }
    }

    /// A value that is missing, with a word on it.
    pub(super) fn needs(&mut self, field: &str, what: &str) {
        self.add(CauseReason::Required, field.to_owned(), format!("Required value: {what}"));
    }

    fn at_most(&mut self, field: &str, has: usize, most: usize) {
        if has > most {
            let message = format!("Too many: {has}: must have at most {most} items");
            self.add(CauseReason::TooMany, field.to_owned(), message);
        }
    }

    /// One of a few words, which must be there.
    fn word(&mut self, value: &Value, field: &str, supported: &[&str]) {
        if value.as_str().unwrap_or_default().is_empty() {
            let listed: Vec<String> = supported.iter().map(|word| format!("{word:?}")).collect();
            return self.needs(field, &format!("valid values: [{}]", listed.join(" ")));
        }
        self.one_of(Some(value), field.to_owned(), supported);
    }

    fn failure_rule(&mut self, spec: &Value, rule: &Value, path: &str) {
        let action = format!("{path}.action");
        if rule["action"] == "FailIndex" && spec["backoffLimitPerIndex"].is_null() {
            self.invalid(action, &rule["action"], "requires the backoffLimitPerIndex to be set");
        } else {
            self.word(&rule["action"], &action, &ACTIONS);
        }
        let (codes, conditions) = (&rule["onExitCodes"], list(rule, "onPodConditions"));
        if codes.is_object() {
            self.exit_codes(spec, codes, &format!("{path}.onExitCodes"));
        }
        self.at_most(&format!("{path}.onPodConditions"), conditions.len(), MOST_RULES);
        for (index, pattern) in conditions.iter().enumerate() {
            let at = format!("{path}.onPodConditions[{index}]");
            let kind = text(pattern, "type");
            self.all(&format!("{at}.type"), &Value::from(kind), &key_problems(kind));
            self.word(&pattern["status"], &format!("{at}.status"), &STATUSES);
        }
        let why = match (codes.is_object(), conditions.is_empty()) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            (true, true) | (false, false) => return,
        };
        self.add(CauseReason::Invalid, path.to_owned(), format!("Invalid value: {why}"));
    }

    fn exit_codes(&mut self, spec: &Value, codes: &Value, path: &str) {
        self.word(&codes["operator"], &format!("{path}.operator"), &OPERATORS);
        let pod = &spec["template"]["spec"];
        let mut containers = list(pod, "containers").iter().chain(list(pod, "initContainers"));
        let name = &codes["containerName"];
        if name.is_string() && !containers.any(|container| container["name"] == *name) {
            let why = "must be one of the container or initContainer names in the pod template";
            self.invalid(format!("{path}.containerName"), name, why);
        }
        let (values, at) = (list(codes, "values"), format!("{path}.values"));
        if values.is_empty() {
            self.invalid(at.as_str(), &codes["values"], "at least one value is required");
        }
        self.at_most(&at, values.len(), MOST_CODES);
        for (index, code) in values.iter().enumerate() {
            let at = format!("{at}[{index}]");
            if codes["operator"] == "In" && *code == 0 {
                self.invalid(at.as_str(), code, "must not be 0 for the In operator");
            }
            if values.iter().take(index).any(|before| before == code) {
                self.add(CauseReason::Duplicate, at, format!("Duplicate value: {code}"));
            }
        }
        if !values.is_sorted_by_key(Value::as_i64) {
            self.invalid(at, &codes["values"], "must be ordered");
        }
    }

    fn success_rule(&mut self, spec: &Value, rule: &Value, path: &str) {
        let (count, indexes) = (rule["succeededCount"].as_i64(), rule["succeededIndexes"].as_str());
        if count.is_none() && indexes.is_none() {
            self.needs(path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let completions = spec["completions"].as_i64().unwrap_or(0);
        let mut all = 0;
        match indexes.map(|indexes| number_of_indexes(indexes, completions)) {
            Some(Ok(total)) => all = total,
            Some(Err(why)) => {
                let why = format!("error parsing succeededIndexes: {why}");
                self.invalid(format!("{path}.succeededIndexes"), &rule["succeededIndexes"], &why);
            }
            None => {}
        }
        let Some(count) = count else { return };
        let at = format!("{path}.succeededCount");
        self.not_negative_at(path, rule, "succeededCount");
        let mut least = |most: i64, of: &str| {
            if count > most {
                self.invalid(
                    at.as_str(),
                    &count.into(),
                    &format!("must be less than or equal to {most} (the number of {of})"),
                );
            }
        };
        least(completions, "specified completions");
        if indexes.is_some() {
            least(all, "indexes in the specified succeededIndexes field");
        }
    }
}

/// How many indexes a text such as `0,2-4` names.
fn number_of_indexes(indexes: &str, completions: i64) -> Result<i64, String> {
    let number = |text: &str| -> Result<i64, String> {
        let index = text.parse::<i64>().map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
        if index >= completions { Err(format!("too large index: {text:?}")) } else { Ok(index) }
    };
    let (mut last, mut total) = (None, 0);
    for interval in indexes.split(',').filter(|_| !indexes.is_empty()) {
        let limits: Vec<&str> = interval.split('-').collect();
        let (first, end) = match limits.as_slice() {
            [one] => (number(one)?, number(one)?),
            [first, end] => (number(first)?, number(end)?),
            _ => {
                return Err(format!(
                    "the fragment {interval:?} violates the requirement that an index interval can have at most two parts \
                     separated by '-'"
                ));
            }
        };
        if limits.len() == 2 && first >= end {
            return Err(format!("non-increasing order, previous: {first}, current: {end}"));
        }
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(spec: Value) -> Vec<String> {
        let mut causes = Causes(Vec::new());
        causes.job_policies(&spec);
        causes.0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_rule_for_failed_pods_says_one_thing_that_can_be() {
        let rule = |rule: Value| {
            told(json!({"podFailurePolicy": {"rules": [rule]}, "template": {"spec": {"containers": [{"name": "a"}]}}}))
        };
        let at = "spec.podFailurePolicy.rules[0]";
        assert_eq!(
            rule(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})),
            [""; 0]
        );
        assert_eq!(
            rule(
                json!({"action": "FailJob", "onExitCodes": {"operator": "In", "containerName": "a", "values": [1, 2]}})
            ),
            [""; 0]
        );
        assert_eq!(
            rule(json!({"onExitCodes": {"operator": "In", "containerName": "b", "values": [2, 0, 2]}})),
            [
                format!("{at}.action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
                format!(
                    "{at}.onExitCodes.containerName: Invalid value: \"b\": must be one of the container or initContainer names in the pod template"
                ),
                format!("{at}.onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator"),
                format!("{at}.onExitCodes.values[2]: Duplicate value: 2"),
                format!("{at}.onExitCodes.values: Invalid value: [2,0,2]: must be ordered"),
            ]
        );
        assert_eq!(
            rule(json!({"action": "FailIndex"})),
            [
                format!("{at}.action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"),
                format!("{at}: Invalid value: specifying one of OnExitCodes and OnPodConditions is required"),
            ]
        );
    }

    #[test]
    fn success_is_of_indexes_that_there_are() {
        let rule = |rule: Value| {
            told(json!({"completionMode": "Indexed", "completions": 5, "successPolicy": {"rules": [rule]}}))
        };
        assert_eq!(rule(json!({"succeededIndexes": "0,2-4", "succeededCount": 4})), [""; 0]);
        assert_eq!(number_of_indexes("0,2-4", 5), Ok(4));
        assert_eq!(number_of_indexes("", 5), Ok(0));
        for (indexes, why) in [
            ("5", "too large"),
            ("x", "cannot convert"),
            ("2-1", "non-increasing"),
            ("1,1", "non-increasing"),
            ("1-2-3", "at most two"),
        ] {
            assert!(number_of_indexes(indexes, 5).is_err_and(|told| told.contains(why)), "{indexes}");
        }
        let at = "spec.successPolicy.rules[0]";
        let of = "the number of indexes in the specified succeededIndexes field";
        assert_eq!(
            rule(json!({"succeededIndexes": "0", "succeededCount": 2})),
            [format!("{at}.succeededCount: Invalid value: 2: must be less than or equal to 1 ({of})")]
        );
        assert_eq!(
            told(json!({"successPolicy": {"rules": []}})),
            ["spec.successPolicy: Invalid value: {\"rules\":[]}: requires indexed completion mode"]
        );
    }
}
