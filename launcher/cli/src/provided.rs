//! The agent's files on the operator's side: read before anything is made.

use std::path::{Path, PathBuf};

use bottle_launch::{PROVIDED_LIMIT, Provided};
use bottle_plan::AgentPlan;

use crate::failure::Failure;

/// The prompt and the skills of an agent. Directories of skills are found by `resolve`.
pub fn provided(agent: &AgentPlan, resolve: impl Fn(&str) -> PathBuf) -> Result<Vec<Provided>, Failure> {
    let mut files = vec![Provided {
        path: "agent/prompt.md".to_owned(),
        executable: false,
        content: agent.prompt.clone().into_bytes().into(),
    }];
    let mut room = PROVIDED_LIMIT;
    for skill in &agent.skills {
        let directory = resolve(&skill.source);
        let refused = |problem: String| Failure::Skill {
            name: skill.name.clone(),
            problem,
        };
        let found = std::fs::metadata(&directory).map_err(|error| refused(said(&directory, &error)))?;
        if !found.is_dir() {
            return Err(refused(format!("{}: expected a directory", directory.display())));
        }
        let target = format!("agent/skills/{}", skill.name);
        let before = files.len();
        read(&directory, &target, &mut room, &mut files).map_err(refused)?;
        if files.len() == before {
            return Err(refused(format!("{}: it has no files", directory.display())));
        }
    }
    Ok(files)
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// Reads a directory, in the order of names. Links and devices are refused: what a link points to may be no part of what
/// the operator meant to give.
fn read(directory: &Path, target: &str, room: &mut usize, files: &mut Vec<Provided>) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    let entries = std::fs::read_dir(directory).map_err(|error| said(directory, &error))?;
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(|error| said(directory, &error))?.path());
    }
    paths.sort();
    for path in paths {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(format!("{}: expected a name in UTF-8", path.display()));
        };
        let target = format!("{target}/{name}");
        let found = std::fs::symlink_metadata(&path).map_err(|error| said(&path, &error))?;
        if found.is_dir() {
            read(&path, &target, room, files)?;
        } else if found.is_file() {
            let content = std::fs::read(&path).map_err(|error| said(&path, &error))?;
            *room = room
                .checked_sub(content.len())
                .ok_or_else(|| format!("expected at most {PROVIDED_LIMIT} bytes in all skills, found more"))?;
            files.push(Provided {
                path: target,
                executable: found.permissions().mode() & 0o111 != 0,
                content: content.into(),
            });
        } else {
            return Err(format!(
                "{}: expected files and directories, found a link or a device",
                path.display()
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bottle_plan::SkillPlan;

    use super::*;

    fn agent(skills: &[&str]) -> AgentPlan {
        AgentPlan {
            name: "a".to_owned(),
            prompt: "words".to_owned(),
            skills_dir: "/home/bottle/.bottle/skills".to_owned(),
            skills: skills
                .iter()
                .map(|name| SkillPlan {
                    name: (*name).to_owned(),
                    source: format!("./{name}"),
                })
                .collect(),
            copies: Vec::new(),
        }
    }

    #[test]
    fn prompt_and_skills_are_read_in_order() {
        let room = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(room.path().join("one/b")).unwrap();
        std::fs::write(room.path().join("one/b/z.md"), "z").unwrap();
        std::fs::write(room.path().join("one/SKILL.md"), "s").unwrap();
        let files = provided(&agent(&["one"]), |source| room.path().join(source)).unwrap();
        let paths: Vec<&str> = files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "agent/prompt.md",
                "agent/skills/one/SKILL.md",
                "agent/skills/one/b/z.md"
            ]
        );
        assert_eq!(&*files[0].content, b"words");
    }

    #[test]
    fn what_is_missing_empty_or_a_link_is_named() {
        let room = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(room.path().join("empty")).unwrap();
        std::fs::create_dir_all(room.path().join("linked")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", room.path().join("linked/SKILL.md")).unwrap();
        for (name, said) in [
            ("absent", "No such file"),
            ("empty", "no files"),
            ("linked", "a link or a device"),
        ] {
            let error = provided(&agent(&[name]), |source| room.path().join(source)).unwrap_err();
            let text = error.to_string();
            assert!(
                text.contains(&format!("skill `{name}`")) && text.contains(said),
                "{text}"
            );
        }
    }
}
