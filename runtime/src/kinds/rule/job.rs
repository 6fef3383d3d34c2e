//! Rules of `batch/v1` Jobs.

use serde_json::{Map, Value};
use trainyard_runtime_core::schema::CauseReason;
use trainyard_runtime_core::selector::is_subdomain;
use trainyard_runtime_core::store::SUBDOMAIN_TEXT;

use super::Causes;

/// The parts of a job's template that may change until it has started: queueing systems place it that way.
const PLACEMENT: [&[&str]; 6] = [
    &["metadata", "labels"],
    &["metadata", "annotations"],
    &["spec", "nodeSelector"],
    &["spec", "tolerations"],
    &["spec", "schedulingGates"],
    &["spec", "affinity", "nodeAffinity"],
];

impl Causes {
    /// `settled`: the server has given it its selector.
    pub(super) fn job(&mut self, spec: &Value, settled: bool) {
        for field in [
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ] {
            self.not_negative(spec, field);
        }
        if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
            self.needs("spec.backoffLimitPerIndex", "when maxFailedIndexes is specified");
        }
        self.managed_by(&spec["managedBy"]);
        self.job_completion(spec);
        self.job_policies(spec);
        let policies: &[&str] =
            if spec["podFailurePolicy"].is_object() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        self.one_of(spec.get("podReplacementPolicy"), "spec.podReplacementPolicy".to_owned(), policies);
        let pod = spec.pointer("/template/spec").unwrap_or(&Value::Null);
        self.pod(pod, "spec.template.spec", &["Always", "OnFailure", "Never"]);
        let field = "spec.template.spec.restartPolicy".to_owned();
        match pod["restartPolicy"].as_str().unwrap_or("Always") {
            "Always" | "" => {
                let message = "Required value: valid values: \"OnFailure\", \"Never\"".to_owned();
                self.add(CauseReason::Required, field, message);
            }
            "OnFailure" if spec["podFailurePolicy"].is_object() => {
                let why = "only \"Never\" is supported when podFailurePolicy is specified";
                self.invalid(field, &pod["restartPolicy"], why);
            }
            _ => self.one_of(pod.get("restartPolicy"), field, &["OnFailure", "Never"]),
        }
        if spec["selector"].is_null() && (settled || spec["manualSelector"] == true) {
            self.required("spec.selector");
            let labels = spec.pointer("/template/metadata/labels").unwrap_or(&Value::Null);
            self.invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`");
        }
    }

    /// Who runs the job, if that is not the cluster's own controller: a path below a domain.
    fn managed_by(&mut self, manager: &Value) {
        const MAX_BYTES: usize = 63;
        let field = "spec.managedBy";
        let Some(text) = manager.as_str() else { return };
        let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
        match text.split_once('/') {
            _ if text.is_empty() => self.required(field),
            Some((host, path)) if !host.is_empty() && !path.is_empty() => {
                if !is_subdomain(host) {
                    self.invalid(field, &host.into(), SUBDOMAIN_TEXT);
                }
                if !path.chars().all(allowed) {
                    let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                    self.invalid(field, &path.into(), why);
                }
            }
            _ => self.invalid(field, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")"),
        }
        if text.len() > MAX_BYTES {
            self.add(
                CauseReason::TooLong,
                field.to_owned(),
                format!("Too long: may not be more than {MAX_BYTES} bytes"),
            );
        }
    }

    fn job_completion(&mut self, spec: &Value) {
        let modes = ["NonIndexed", "Indexed"];
        self.one_of(spec.get("completionMode"), "spec.completionMode".to_owned(), &modes);
        if spec["completionMode"] == "Indexed" {
            if spec["completions"].is_null() {
                self.needs("spec.completions", "when completion mode is Indexed");
            }
            if let (Some(all), Some(failed)) = (spec["completions"].as_i64(), spec["maxFailedIndexes"].as_i64())
                && failed > all
            {
                self.invalid("spec.maxFailedIndexes", &failed.into(), "must be less than or equal to completions");
            }
        } else {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if !spec[field].is_null() {
                    self.invalid(format!("spec.{field}"), &spec[field], "requires indexed completion mode");
                }
            }
        }
    }

    pub(super) fn job_update(&mut self, old: &Value, new: &Value) {
        if new["spec"]["completionMode"] != "Indexed" {
            self.frozen(old, new, &["/spec/completions"]);
        } else if old["spec"]["completions"] != new["spec"]["completions"]
            && !new["spec"]["completions"].is_null()
            && new["spec"]["completions"] != new["spec"]["parallelism"]
        {
            let why = "can only be modified in tandem with spec.parallelism";
            self.invalid("spec.completions", &new["spec"]["completions"], why);
        }
        self.frozen(old, new, &["/spec/selector"]);
        let free = old["spec"]["suspend"] == true && old["status"]["startTime"].is_null();
        let (had, has) = (&old["spec"]["template"], &new["spec"]["template"]);
        if if free { without_placement(had) != without_placement(has) } else { had != has } {
            self.invalid("spec.template", has, "field is immutable");
        }
        let rest = ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"];
        self.frozen(old, new, &rest.map(|field| format!("/spec/{field}")).each_ref().map(String::as_str));
    }

    /// Counts that fit each other, and a life that goes one way.
    pub(super) fn job_status(&mut self, old: &Value, new: &Value) {
        let (was, is) = (&old["status"], &new["status"]);
        let count = |status: &Value, field: &str| status[field].as_i64().unwrap_or(0);
        let has = |status: &Value, kind: &str| {
            let conditions = status["conditions"].as_array().into_iter().flatten();
            conditions.into_iter().any(|c| c["type"] == kind && c["status"] == "True")
        };
        let ended = |status: &Value| has(status, "Complete") || has(status, "Failed");
        let changed = |field: &str| was[field] != is[field];
        for field in ["active", "succeeded", "failed", "ready", "terminating"] {
            self.not_negative_at("status", is, field);
        }
        let conditions = |causes: &mut Self, why: &str| {
            causes.add(CauseReason::Invalid, "status.conditions".to_owned(), format!("Invalid value: {why}"));
        };
        let turned = |kind: &str| has(was, kind) != has(is, kind);
        if (turned("Complete") || turned("Failed")) && has(is, "Complete") && has(is, "Failed") {
            conditions(self, "cannot set Complete=True and Failed=true conditions");
        }
        if turned("Failed") && has(is, "Failed") && !has(is, "FailureTarget") {
            conditions(self, "cannot set Failed=True condition without the FailureTarget=true condition");
        }
        if (turned("Complete") || turned("SuccessCriteriaMet")) && has(is, "Complete") && !has(is, "SuccessCriteriaMet")
        {
            conditions(self, "cannot set Complete=True condition without the SuccessCriteriaMet=true condition");
        }
        let ends = ended(was) != ended(is);
        if (ends || changed("active")) && ended(is) && count(is, "active") > 0 {
            self.invalid("status.active", &is["active"], "active>0 is invalid for finished job");
        }
        if (ends || changed("startTime")) && ended(is) && is["startTime"].is_null() {
            let message = "Required value: startTime is required for finished job".to_owned();
            self.add(CauseReason::Required, "status.startTime".to_owned(), message);
        }
        if (changed("ready") || changed("active")) && count(is, "ready") > count(is, "active") {
            self.invalid("status.ready", &is["ready"], "cannot set more ready pods than active");
        }
        for kind in ["Failed", "Complete", "FailureTarget"].into_iter().filter(|kind| has(was, kind) && !has(is, kind))
        {
            conditions(self, &format!("cannot disable the terminal {kind}=True condition"));
        }
        let scaled =
            new["spec"]["completionMode"] == "Indexed" && new["spec"]["completions"] == new["spec"]["parallelism"];
        for field in ["failed", "succeeded"].into_iter().filter(|field| *field == "failed" || !scaled) {
            if count(is, field) < count(was, field) {
                let why = format!("cannot decrease the {field} counter");
                self.invalid(format!("status.{field}"), &count(is, field).into(), &why);
            }
        }
        let runs = new["spec"]["suspend"] != true;
        if changed("startTime") && !was["startTime"].is_null() && runs {
            let message = "Required value: startTime cannot be removed for unsuspended job".to_owned();
            self.add(CauseReason::Required, "status.startTime".to_owned(), message);
        }
    }
}

/// A template as far as it may not change before the job starts.
fn without_placement(template: &Value) -> Value {
    let mut template = template.clone();
    for path in PLACEMENT {
        let Some((last, parents)) = path.split_last() else { continue };
        let parent = parents.iter().try_fold(&mut template, |value, step| value.get_mut(*step));
        if let Some(Value::Object(parent)) = parent {
            parent.remove(*last);
        }
    }
    for (part, field) in [("spec", "affinity"), ("", "metadata")] {
        let parent = if part.is_empty() { Some(&mut template) } else { template.get_mut(part) };
        if let Some(Value::Object(parent)) = parent
            && parent.get(field).and_then(Value::as_object).is_some_and(Map::is_empty)
        {
            parent.remove(field);
        }
    }
    template
}
