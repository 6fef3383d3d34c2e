#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use serde_json::json;

use super::*;

const HOSTILE: &str = "</script><script>alert(1)</script>&\u{2028}'\"";

/// An experiment with so many trials, all of whose texts are hostile.
fn record(trials: u64) -> Record {
    let experiment = json!({
        "metadata": {"name": HOSTILE, "uid": "u"},
        "spec": {
            "objective": {"metric": HOSTILE, "goal": "minimize"},
            "parameters": {
                "x": {"type": "float", "min": -2, "max": 2},
                "lr": {"type": "float", "min": 1e-5, "max": 1, "scale": "log"},
                HOSTILE: {"type": "categorical", "choices": [HOSTILE, "b"]},
                "depth": {"type": "int", "min": 1, "max": 8, "when": "x > 0"},
            },
            "trial": {"command": ["train", HOSTILE], "env": {"TOKEN": "secret-1"}, "job": {"spec": {"containers": [
                {"env": [{"name": "PASSWORD", "value": "secret-2"}]}]}}},
        },
        "status": {"phase": "Succeeded", "message": HOSTILE, "startTime": "2026-01-01T00:00:00Z"},
    });
    // A spec has either, and this one is only shown.
    let mut readable = experiment.clone();
    readable["spec"]["trial"] = json!({"command": ["train", "{trial.parameters}"]});
    let trial = |number: u64| {
        let x = (number * 7919 % 1000) as f64 / 250.0 - 2.0;
        let mut parameters = json!({"x": x, "lr": 1e-3, HOSTILE: if number.is_multiple_of(2) { HOSTILE } else { "b" }});
        if x > 0.0 {
            parameters["depth"] = json!(number % 8 + 1);
        }
        let failed = number % 50 == 7;
        let values = if failed { json!(null) } else { json!({HOSTILE: x * x}) };
        json!({
            "metadata": {"name": format!("e-{number}"), "ownerReferences": [{"uid": "u"}]},
            "spec": {"number": number, "parameters": parameters},
            "status": {
                "phase": if failed { "Failed" } else { "Succeeded" }, "message": HOSTILE, "values": values,
                "job": {"apiVersion": "a", "kind": "b", "name": "c"},
                "startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:09Z",
            },
        })
    };
    let trials: Vec<Json> = (0..trials).map(trial).collect();
    let mut record = Record::read(&readable, &trials).unwrap();
    record.spec = experiment["spec"].as_object().unwrap().clone();
    record
}

/// What the page's script reads.
fn data(page: &str) -> Json {
    let start = page.find("id=\"data\">").unwrap() + "id=\"data\">".len();
    serde_json::from_str(&page[start..start + page[start..].find("</script>").unwrap()]).unwrap()
}

#[test]
fn no_text_becomes_a_part_of_the_page() {
    let page = html(&record(60), 0);
    assert_eq!((page.matches("<script").count(), page.matches("</script").count()), (2, 2), "its own two scripts");
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains("secret-"), "environment variables may be secrets");
    let data = data(&page);
    assert_eq!(data["name"], HOSTILE, "as it was, for those who see it");
    assert_eq!(data["parameters"][2]["marks"][0][1], HOSTILE);
    for foreign in ["http:", "https:", "//cdn", "@import", "url("] {
        let own = page.replace("http://www.w3.org/2000/svg", "");
        assert!(!own.contains(foreign), "{foreign}: it loads nothing");
    }
}

#[test]
fn the_page_of_many_trials_is_bounded() {
    let record = record(20_000);
    let page = html(&record, 0);
    assert!(page.len() < 1_500_000, "{}", page.len());
    let data = data(&page);
    let shown: Vec<u64> = data["trials"].as_array().unwrap().iter().map(|trial| trial[0].as_u64().unwrap()).collect();
    assert!(shown.len() <= TRIALS_SHOWN && shown.len() > TRIALS_SHOWN / 2, "{}", shown.len());
    assert_eq!(data["all"], 20_000);
    assert!(shown.contains(&record.front()[0].number), "the best is there");
    assert!(data["importance"][0]["shares"][0][1].as_f64().unwrap() > 0.9, "{}", data["importance"][0]["shares"]);
}

const TRIALS_SHOWN: usize = 2_000;

#[test]
fn trials_have_their_places_on_the_axes() {
    let data = data(&html(&record(60), 0));
    let marks =
        |at: usize| -> Vec<(f64, String)> { serde_json::from_value(data["parameters"][at]["marks"].clone()).unwrap() };
    let texts = |at: usize| marks(at).into_iter().map(|(_, text)| text).collect::<Vec<_>>();
    assert_eq!(texts(0), ["-2", "-1", "0", "1", "2"]);
    assert_eq!(texts(1), ["1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]);
    assert_eq!(marks(1)[1].0, 0.2);
    assert_eq!(texts(3), ["2", "4", "6", "8"]);
    let trial = &data["trials"][1];
    let x = trial[4][0].as_str().unwrap().parse::<f64>().unwrap();
    assert!((trial[3][0].as_f64().unwrap() - (x + 2.0) / 4.0).abs() < 1e-4, "{trial}");
    assert_eq!(trial[3][2], 0.75, "the second of two categories");
    let unused = data["trials"].as_array().unwrap().iter().find(|trial| trial[4][3].is_null()).unwrap();
    assert!(unused[3][3].is_null(), "{unused}");
}

#[test]
fn an_experiment_without_any_value_has_a_page() {
    for trials in [0, 1] {
        let data = data(&html(&record(trials), 0));
        assert_eq!(data["all"], trials);
        assert_eq!(data["importance"], json!([null]));
    }
}
