#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use super::*;

const NOW: i64 = 1_000_000;

/// A folder that is written in the test, in the order of time.
#[derive(Default)]
struct Folder {
    listing: Listing,
    contents: BTreeMap<String, Vec<u8>>,
}

impl Folder {
    fn put(mut self, path: &str, modified_ms: i64, contents: impl AsRef<[u8]>) -> Self {
        let contents = contents.as_ref().to_vec();
        self.listing.insert(path.to_owned(), File { bytes: contents.len() as u64, modified_ms, open: false });
        self.contents.insert(path.to_owned(), contents);
        self
    }

    fn open(mut self, path: &str) -> Self {
        self.listing.get_mut(path).unwrap().open = true;
        self
    }

    /// What the shell does: looks until nothing more is wanted.
    fn recognise(&self) -> Vec<Checkpoint> {
        let mut peeks = Peeks::new();
        for _ in 0..4 {
            let wants = wants(&self.listing, &peeks);
            if wants.is_empty() {
                return recognise(&self.listing, &peeks, NOW);
            }
            for want in wants {
                let bytes = &self.contents[&want.path];
                let head = bytes[..bytes.len().min(want.head as usize)].to_vec();
                let tail = bytes[bytes.len().saturating_sub(want.tail as usize)..].to_vec();
                peeks.insert(want.path, Peek { head, tail });
            }
        }
        panic!("it wants more and more");
    }

    fn only(&self) -> Checkpoint {
        let found = self.recognise();
        assert_eq!(found.len(), 1, "{found:?}");
        found[0].clone()
    }

    /// Paths, steps and whether whole.
    fn told(&self) -> Vec<(String, Option<u64>, bool)> {
        self.recognise().into_iter().map(|found| (found.path.clone(), found.step, found.is_whole())).collect()
    }
}

/// An archive with nothing but its ends.
fn zip(data: usize) -> Vec<u8> {
    let mut bytes = b"PK\x03\x04".to_vec();
    bytes.resize(4 + data, 7);
    let offset = bytes.len() as u32;
    bytes.extend(b"PK\x01\x02directory");
    let size = bytes.len() as u32 - offset;
    bytes.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    bytes.extend(size.to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

fn safetensors(data: usize) -> Vec<u8> {
    let header =
        format!(r#"{{"__metadata__":{{"format":"pt"}},"w":{{"dtype":"F32","shape":[1],"data_offsets":[0,{data}]}}}}"#);
    [(header.len() as u64).to_le_bytes().as_slice(), header.as_bytes(), &vec![1; data]].concat()
}

#[test]
fn a_torch_file_is_whole_when_its_directory_is_there() {
    let whole = zip(1000);
    let found = Folder::default().put("step_120.pt", NOW - 1, &whole).only();
    assert_eq!(
        (found.layout, found.step, found.bytes, found.unfit),
        (Layout::Torch, Some(120), whole.len() as u64, None)
    );
    for cut in [1, 10, 22, 30, 500] {
        let torn = &whole[..whole.len() - cut];
        assert!(!Folder::default().put("step_120.pt", 0, torn).only().is_whole(), "{cut} bytes are missing");
    }
    assert!(!Folder::default().put("a.pt", 0, "").only().is_whole());
    let open = Folder::default().put("a.pt", 0, &whole).open("a.pt").only();
    assert_eq!(open.unfit, Some(Unfit::Open("a.pt".to_owned())));
}

#[test]
fn an_old_torch_file_has_to_be_quiet() {
    let old = [0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.', 1, 2, 3];
    assert_eq!(Folder::default().put("m.pt", NOW - 100, old).only().unfit, Some(Unfit::Changing));
    assert!(Folder::default().put("m.pt", NOW - SETTLED_MS, old).only().is_whole());
    assert!(!Folder::default().put("m.pt", 0, "no pickle at all").only().is_whole());
}

#[test]
fn safetensors_is_as_long_as_its_header_says() {
    let whole = safetensors(4000);
    assert!(Folder::default().put("model-7.safetensors", NOW, &whole).only().is_whole());
    assert!(!Folder::default().put("m.safetensors", 0, &whole[..whole.len() - 1]).only().is_whole());
    assert!(!Folder::default().put("m.safetensors", 0, &whole[..20]).only().is_whole());
    assert!(!Folder::default().put("m.safetensors", 0, [0xff; 9]).only().is_whole());
    let long = format!(r#"{{"{}":{{"data_offsets":[0,2]}}}}"#, "n".repeat(5000));
    let long = [(long.len() as u64).to_le_bytes().as_slice(), long.as_bytes(), b"ab"].concat();
    assert!(Folder::default().put("m.safetensors", NOW, long).only().is_whole(), "a header longer than the first look");
}

#[test]
fn a_dcp_folder_is_whole_when_its_contents_are_there_and_newer() {
    let parts = |at| Folder::default().put("step-50/__0_0.distcp", at, "x").put("step-50/__1_0.distcp", at, "y");
    let contents = b"\x80\x04\x95__0_0.distcp..__1_0.distcp.";
    assert_eq!(parts(0).only().unfit, Some(Unfit::NotCommitted("step-50/.metadata".to_owned())));
    let whole = parts(5).put("step-50/.metadata", 6, contents).only();
    assert_eq!((whole.layout, whole.step, whole.unfit), (Layout::Dcp, Some(50), None));
    let torn = parts(5).put("step-50/.metadata", 6, &contents[..20]).only();
    assert_eq!(torn.unfit, Some(Unfit::Torn("step-50/.metadata".to_owned())));
    let over = parts(9).put("step-50/.metadata", 6, contents).only();
    assert_eq!(over.unfit, Some(Unfit::Overwritten("step-50/__0_0.distcp".to_owned())));
    let gone = Folder::default().put(".metadata", 6, contents).put("__0_0.distcp", 5, "x").only();
    assert_eq!((gone.path.as_str(), gone.unfit), ("", Some(Unfit::NotCommitted("__1_0.distcp".to_owned()))));
    let unfinished = parts(5).put("step-50/.metadata.tmp", 6, contents);
    assert!(!unfinished.only().is_whole());
}

#[test]
fn trainers_folders_need_their_state_and_all_shards() {
    let weights = |at| Folder::default().put("checkpoint-500/model.safetensors", at, safetensors(8));
    assert!(!weights(0).only().is_whole());
    let whole = weights(0).put("checkpoint-500/trainer_state.json", 1, r#"{"global_step": 500}"#).only();
    assert_eq!((whole.layout, whole.step, whole.is_whole()), (Layout::Trainer, Some(500), true));
    let young = weights(NOW - 1).put("checkpoint-500/trainer_state.json", 1, "{}").only();
    assert_eq!(young.unfit, Some(Unfit::Changing));
    let half = weights(0).put("checkpoint-500/trainer_state.json", 1, r#"{"global_st"#).only();
    assert!(!half.is_whole());
    let index = r#"{"weight_map": {"a": "x-1.safetensors", "b": "x-2.safetensors"}}"#;
    let sharded = Folder::default().put("m.safetensors.index.json", 0, index).put("x-1.safetensors", 0, safetensors(4));
    assert_eq!(sharded.only().unfit, Some(Unfit::NotCommitted("x-2.safetensors".to_owned())));
    let sharded = sharded.put("x-2.safetensors", 0, safetensors(4));
    assert_eq!((sharded.only().layout, sharded.only().is_whole()), (Layout::Sharded, true));
}

#[test]
fn notes_beside_the_folders_tell_how_far_megatron_and_deepspeed_are() {
    let megatron = |note: &str| {
        let folder = Folder::default().put("iter_0000100/mp_rank_00/model_optim_rng.pt", 0, zip(9)).put(
            "iter_0000200/mp_rank_00/model_optim_rng.pt",
            0,
            zip(9),
        );
        if note.is_empty() { folder } else { folder.put("latest_checkpointed_iteration.txt", 0, note) }
    };
    let paths = |folder: Folder| folder.told();
    let told = |first, second| {
        vec![("iter_0000100".to_owned(), Some(100), first), ("iter_0000200".to_owned(), Some(200), second)]
    };
    assert_eq!(paths(megatron("100\n")), told(true, false));
    assert_eq!(paths(megatron("200")), told(true, true));
    assert_eq!(paths(megatron("")), told(false, false), "without a note nothing was finished");
    let deepspeed = |tag: &str| {
        Folder::default()
            .put("latest", 0, tag)
            .put("global_step5/mp_rank_00_model_states.pt", 0, zip(9))
            .put("mine/mp_rank_00_model_states.pt", 0, zip(9))
            .told()
    };
    let steps = deepspeed("global_step5");
    assert_eq!(steps[0], ("global_step5".to_owned(), Some(5), true));
    assert!(deepspeed("mine").contains(&("mine".to_owned(), None, true)));
}

#[test]
fn orbax_counts_once_it_has_its_name() {
    let folder = Folder::default()
        .put("100/_CHECKPOINT_METADATA", 0, "{}")
        .put("100/state/manifest.ocdbt", 0, "x")
        .put("200.orbax-checkpoint-tmp-12/_CHECKPOINT_METADATA", 0, "{}")
        .put("300/_CHECKPOINT_METADATA", 0, "{}")
        .put("300/state.orbax-checkpoint-tmp-3/x", 0, "{}");
    let told = folder.told();
    assert_eq!(told[0], ("100".to_owned(), Some(100), true));
    assert!(!told[1].2 && !told[2].2, "{told:?}");
}

#[test]
fn temporary_files_are_no_checkpoints() {
    let folder = Folder::default().put("step_5.pt.tmp", 0, zip(3)).put(".trainyard-removing-step_1.pt", 0, zip(3));
    assert!(folder.recognise().iter().all(|found| !found.is_whole()), "{:?}", folder.recognise());
    let hidden = Folder::default().put(".step_5.pt.x7Gq", 0, zip(3)).put(".step_5.pt", 0, zip(3));
    assert!(hidden.recognise().iter().all(|found| !found.is_whole()), "{:?}", hidden.recognise());
    let other = Folder::default().put("notes.txt", 0, "x").put("logs/events.out", 0, "x");
    assert_eq!(other.recognise(), []);
}

#[test]
fn a_folder_without_a_mark_has_what_the_one_before_it_had() {
    let both = Folder::default().put("step_5/model_5.pt", 1, zip(3)).put("step_5/optimizer_5.pt", 2, zip(3)).put(
        "step_10/model_10.pt",
        3,
        zip(3),
    );
    let told = both.told();
    assert_eq!(told[0], ("step_10".to_owned(), Some(10), false), "killed before the second file");
    assert_eq!(told[1], ("step_5".to_owned(), Some(5), true));
    assert_eq!(both.recognise()[0].unfit, Some(Unfit::NotCommitted("step_10/optimizer_5.pt".to_owned())));
    let both = both.put("step_10/optimizer_10.pt", 4, zip(3)).put("step_11/model_11.pt", 5, zip(3));
    let whole: Vec<bool> = both.recognise().iter().map(Checkpoint::is_whole).collect();
    assert_eq!(whole, [true, false, true]);
    let others = both.put("elsewhere/step_12/model_12.pt", 6, zip(3)).put("epoch_13/model_13.pt", 6, zip(3));
    assert!(others.told().contains(&("epoch_13".to_owned(), None, true)), "of another name");
    assert!(others.told().contains(&("elsewhere/step_12".to_owned(), Some(12), true)), "of another folder");
}

#[test]
fn the_newest_is_by_time_and_of_a_pair_the_one_with_a_step() {
    let folder = Folder::default()
        .put("run1/epoch=0-step=900.ckpt", 10_000, zip(3))
        .put("run2/epoch=0-step=100.ckpt", 50_000, zip(3))
        .put("run2/last.ckpt", 50_900, zip(3))
        .put("run2/epoch=1-step=200.ckpt", 70_000, &zip(3)[..9]);
    let found = folder.recognise();
    let best = newest(&found).unwrap();
    assert_eq!((best.path.as_str(), best.step, best.epoch), ("run2/epoch=0-step=100.ckpt", Some(100), Some(0)));
    assert_eq!(newest(&[]), None);
}

#[test]
fn a_write_in_progress_is_noticed() {
    let quiet = Folder::default().put("step_1.pt", 0, zip(3)).put("step_2.pt", 0, "PK");
    assert!(!is_writing(&quiet.recognise(), NOW), "torn long ago");
    let fresh = Folder::default().put("step_2.pt", NOW - 10, "PK\x03\x04");
    assert!(is_writing(&fresh.recognise(), NOW));
    let open = Folder::default().put("step_2.pt", 0, zip(3)).open("step_2.pt");
    assert!(is_writing(&open.recognise(), NOW));
}

#[test]
fn pruning_keeps_the_newest_and_what_has_no_number() {
    let mut folder = Folder::default().put("best.pt", 1, zip(3)).put("step_9.pt", 99, "PK\x03\x04");
    for step in 1..=5 {
        folder = folder.put(&format!("step_{step}.pt"), step, zip(3));
    }
    let found = folder.recognise();
    assert_eq!(prune(&found, 2), ["step_1.pt", "step_2.pt", "step_3.pt"]);
    assert_eq!(prune(&found, 0), ["step_1.pt", "step_2.pt", "step_3.pt", "step_4.pt"], "one is the least");
    assert_eq!(prune(&found, 9), [""; 0]);
    let top = Folder::default().put(".metadata", 6, "__0_0.distcp.").put("__0_0.distcp", 5, "x");
    assert_eq!(prune(&top.recognise(), 1), [""; 0], "never the folder itself");
}
