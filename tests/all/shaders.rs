//! Every shader of every op, hand-written and generated, forward and backward, is valid for every capability profile.

use crate::harness::*;
use crate::registry::all;
use fornax::testing::{Profile, ShaderText, profiles, shaders};
use fornax::{DType, Device, Result, Tensor};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::HashMap;

/// Parses and validates a shader with what the profile offers, and compares it with its bindings and parameters.
fn problem(s: &ShaderText, profile: &Profile) -> Option<String> {
    let module = match naga::front::wgsl::parse_str(&s.source) {
        Ok(module) => module,
        Err(e) => return Some(e.emit_to_string(&s.source)),
    };
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SHADER_FLOAT16, profile.f16);
    capabilities.set(Capabilities::SUBGROUP, profile.subgroups);
    capabilities.set(Capabilities::SHADER_FLOAT32_ATOMIC, profile.float_atomics);
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if profile.subgroups {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    if let Err(e) = validator.validate(&module) {
        return Some(e.emit_to_string(&s.source));
    }
    let mut storage = 0;
    let mut workgroup = 0;
    for (_, v) in module.global_variables.iter() {
        let size = module.types[v.ty].inner.size(module.to_ctx()) as usize;
        match v.space {
            naga::AddressSpace::Storage { .. } => storage += 1,
            naga::AddressSpace::Uniform if size.div_ceil(16) != (s.params * 4).div_ceil(16) => {
                return Some(format!("{} words of parameters for a struct of {size} bytes", s.params));
            }
            naga::AddressSpace::WorkGroup => workgroup += size,
            _ => {}
        }
    }
    let threads: u32 = module.entry_points.iter().map(|e| e.workgroup_size.iter().product()).max().unwrap_or(0);
    if storage != s.bindings || storage > 8 {
        return Some(format!("{storage} storage variables, {} bindings", s.bindings));
    }
    if workgroup > 16 << 10 || threads > 256 || threads == 0 {
        return Some(format!("{workgroup} bytes of workgroup memory, {threads} invocations"));
    }
    (!s.groups.iter().all(|g| (1..=65_535).contains(g))).then(|| format!("workgroups {:?}", s.groups))
}

/// The results of a case and its gradients, recorded and not run. Where there is a GPU the tensors are there: some routes are chosen by it.
fn roots(case: &Case, dtype: DType, lie: Lie) -> Result<Vec<Tensor>> {
    let mut t = tensors(case, &arrays(case, lie), dtype, lie, gpu().unwrap_or(Device::cpu()))?;
    let gradients = case.order() > 0;
    t.iter_mut().filter(|t| gradients && t.dtype().is_float()).for_each(|t| *t = t.requires_grad());
    let y = case.build(&t)?;
    let mut roots = vec![y.clone()];
    if gradients {
        let leaves: Vec<&Tensor> = t.iter().filter(|t| t.dtype().is_float()).collect();
        roots.extend(fornax::grad(&[&y], &leaves)?.into_iter().flatten());
    }
    Ok(roots)
}

#[test]
fn shaders_are_valid_for_every_profile() {
    let profiles = profiles();
    // The profiles that a text has been found valid for: with less, it is valid with more.
    let mut valid: HashMap<String, Vec<Profile>> = HashMap::new();
    let within = |a: &Profile, b: &Profile| a.f16 <= b.f16 && a.subgroups <= b.subgroups && a.float_atomics <= b.float_atomics;
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in all() {
        let mut forms = vec![(DType::F32, Lie::Plain), (DType::F32, Lie::Transposed), (DType::F32, Lie::Sliced)];
        if case.takes_half() {
            forms.extend([(DType::F16, Lie::Plain), (DType::BF16, Lie::Sliced)]);
        }
        for (dtype, lie) in forms {
            let roots = roots(&case, dtype, lie).unwrap_or_else(|e| panic!("{} in {dtype}: {e}", case.name));
            // The first profile has the least of everything, the last one all.
            let some = [profiles[0], profiles[profiles.len() - 1]];
            for profile in if (dtype, lie) == (DType::F32, Lie::Plain) { &profiles[..] } else { &some[..] } {
                let texts = shaders(&roots, profile).unwrap_or_else(|e| panic!("{} in {dtype} for {profile:?}: {e}", case.name));
                for s in texts {
                    seen += 1;
                    let known = valid.entry(s.source.clone()).or_default();
                    if known.iter().any(|p| within(p, profile)) {
                        continue;
                    }
                    known.push(*profile);
                    if let Some(problem) = problem(&s, profile) {
                        wrong.push(format!("{} of {} in {dtype} {lie:?} for {profile:?}: {problem}", s.label, case.name));
                    }
                }
            }
        }
    }
    println!("{seen} shaders, {} texts, {} profiles", valid.len(), profiles.len());
    assert!(wrong.is_empty(), "{} shaders are wrong:\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
    // No shader of the folder went unseen.
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/shaders");
    let mut files = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "wgsl") {
            continue;
        }
        files += 1;
        let text = std::fs::read_to_string(&path).unwrap();
        let plain: Vec<&str> = text.lines().filter(|l| l.trim().len() > 12 && !l.contains("{{") && !l.contains("//")).collect();
        let covered = valid.keys().any(|source| 2 * plain.iter().filter(|l| source.contains(**l)).count() > plain.len());
        assert!(covered || gpu().is_none(), "no case of the harness runs {}", path.display());
    }
    assert!(files > 20, "the shaders were not found in {folder}");
}
