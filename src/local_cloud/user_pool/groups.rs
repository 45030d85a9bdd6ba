//! Groups: who is in which, and what that puts into a token. The groups themselves come from the template.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::local_cloud::error::AwsError;
use crate::local_cloud::seed::GroupSeed;
use crate::local_cloud::user_pool::directory::User;
use crate::local_cloud::user_pool::pool::Pool;
use crate::local_cloud::user_pool::request::{PageQuery, Request, user_entry};

/// What a user's groups say in a token.
#[derive(Debug, PartialEq, Eq)]
pub struct GroupClaims {
    /// `cognito:groups`, by precedence.
    pub groups: Vec<String>,
    /// `cognito:roles`, in the same order, each once.
    pub roles: Vec<String>,
    /// `cognito:preferred_role`: none where the first groups disagree or have no role.
    pub preferred_role: Option<String>,
}

impl GroupClaims {
    /// Of a user in these groups; a name that the pool does not know (any more) counts for nothing.
    pub fn of(known: &[GroupSeed], memberships: &BTreeSet<String>) -> Self {
        let mut joined: Vec<&GroupSeed> = known.iter().filter(|group| memberships.contains(&group.name)).collect();
        joined.sort_by(|a, b| (rank(a), &a.name).cmp(&(rank(b), &b.name)));
        let mut roles: Vec<String> = Vec::new();
        for role in joined.iter().filter_map(|group| group.role_arn.as_ref()) {
            if !roles.contains(role) {
                roles.push(role.clone());
            }
        }
        let first_rank = joined.first().map(|group| rank(group));
        let mut first_roles =
            joined.iter().filter(|group| Some(rank(group)) == first_rank).map(|group| &group.role_arn);
        let preferred_role = match first_roles.next() {
            Some(Some(role)) if first_roles.all(|other| other.as_ref() == Some(role)) => Some(role.clone()),
            _ => None,
        };
        Self { groups: joined.iter().map(|group| group.name.clone()).collect(), roles, preferred_role }
    }

    /// Puts the claims into an ID token.
    pub fn write_id(&self, claims: &mut Map<String, Value>) {
        self.write_access(claims);
        if !self.roles.is_empty() {
            claims.insert("cognito:roles".into(), json!(self.roles));
        }
        if let Some(role) = &self.preferred_role {
            claims.insert("cognito:preferred_role".into(), json!(role));
        }
    }

    /// Puts the claims into an access token, which carries no roles.
    pub fn write_access(&self, claims: &mut Map<String, Value>) {
        if !self.groups.is_empty() {
            claims.insert("cognito:groups".into(), json!(self.groups));
        }
    }
}

/// Lower goes first; a group without a precedence goes last.
fn rank(group: &GroupSeed) -> u64 {
    group.precedence.map_or(u64::MAX, u64::from)
}

impl Request {
    pub(super) fn admin_add_user_to_group(&self) -> Result<Value, AwsError> {
        self.change_membership("AdminAddUserToGroup", |user, group| {
            user.groups.insert(group);
        })
    }

    pub(super) fn admin_remove_user_from_group(&self) -> Result<Value, AwsError> {
        self.change_membership("AdminRemoveUserFromGroup", |user, group| {
            user.groups.remove(&group);
        })
    }

    pub(super) fn admin_list_groups_for_user(&self) -> Result<Value, AwsError> {
        let pool = self.administer("AdminListGroupsForUser")?;
        let user = self.named_user(pool)?;
        let claims = GroupClaims::of(&pool.seed.groups, &user.groups);
        let joined = claims.groups.iter().filter_map(|name| pool.seed.groups.iter().find(|group| &group.name == name));
        self.group_page(pool, joined.collect())
    }

    pub(super) fn list_groups(&self) -> Result<Value, AwsError> {
        let pool = self.administer("ListGroups")?;
        self.group_page(pool, pool.seed.groups.iter().collect())
    }

    pub(super) fn get_group(&self) -> Result<Value, AwsError> {
        let pool = self.administer("GetGroup")?;
        Ok(json!({ "Group": group_entry(pool, self.group(pool)?) }))
    }

    pub(super) fn list_users_in_group(&self) -> Result<Value, AwsError> {
        let pool = self.administer("ListUsersInGroup")?;
        let name = &self.group(pool)?.name;
        let query = PageQuery::read(self, "NextToken")?;
        let users = pool.directory.page(query.after(), query.limit + 1, |user| user.groups.contains(name));
        Ok(query.answer("Users", users, |user| user.sub.clone(), |user| user_entry(user, "Attributes")))
    }

    fn change_membership(&self, action: &str, change: impl FnOnce(&mut User, String)) -> Result<Value, AwsError> {
        let pool = self.administer(action)?;
        let user = self.named_user(pool)?;
        let group = self.group(pool)?.name.clone();
        // Membership is no attribute: it does not count as a change of the user.
        pool.directory.update(&user.sub, |user| change(user, group))?;
        Ok(json!({}))
    }

    fn group<'p>(&self, pool: &'p Pool) -> Result<&'p GroupSeed, AwsError> {
        let name = self.required("GroupName", "groupName")?;
        let group = pool.seed.groups.iter().find(|group| group.name == name);
        group.ok_or_else(|| AwsError::new("ResourceNotFoundException", "Group not found."))
    }

    fn group_page(&self, pool: &Pool, groups: Vec<&GroupSeed>) -> Result<Value, AwsError> {
        let query = PageQuery::read(self, "NextToken")?;
        let start = if query.after().is_empty() {
            0
        } else {
            groups.iter().position(|group| group.name == query.after()).map_or(groups.len(), |at| at + 1)
        };
        let page = groups.into_iter().skip(start).take(query.limit + 1).collect();
        Ok(query.answer("Groups", page, |group| group.name.clone(), |group| group_entry(pool, group)))
    }
}

fn group_entry(pool: &Pool, group: &GroupSeed) -> Value {
    let mut entry = json!({ "GroupName": group.name, "UserPoolId": pool.seed.id });
    if let Some(precedence) = group.precedence {
        entry["Precedence"] = json!(precedence);
    }
    if let Some(role) = &group.role_arn {
        entry["RoleArn"] = json!(role);
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &str, precedence: Option<u32>, role: Option<&str>) -> GroupSeed {
        GroupSeed { name: name.into(), precedence, role_arn: role.map(str::to_owned) }
    }

    fn of(groups: &[GroupSeed]) -> GroupClaims {
        GroupClaims::of(groups, &groups.iter().map(|group| group.name.clone()).collect())
    }

    #[test]
    fn the_lowest_precedence_prefers_its_role() {
        let claims = of(&[group("free", Some(10), Some("F")), group("paid", Some(1), Some("P"))]);
        assert_eq!(claims.groups, ["paid", "free"]);
        assert_eq!(claims.roles, ["P", "F"]);
        assert_eq!(claims.preferred_role.as_deref(), Some("P"));
    }

    #[test]
    fn groups_that_disagree_at_the_top_prefer_nothing() {
        let tied = of(&[group("a", Some(1), Some("A")), group("b", Some(1), Some("B"))]);
        assert_eq!((tied.preferred_role, tied.roles.len()), (None, 2));
        let agreed = of(&[group("a", Some(1), Some("A")), group("b", Some(1), Some("A"))]);
        assert_eq!((agreed.preferred_role.as_deref(), agreed.roles.len()), (Some("A"), 1));
        assert_eq!(of(&[group("a", Some(1), None), group("b", Some(2), Some("B"))]).preferred_role, None);
        assert_eq!(of(&[group("a", None, Some("A")), group("b", None, Some("B"))]).preferred_role, None);
    }

    #[test]
    fn a_group_without_precedence_goes_last_and_one_the_pool_forgot_counts_for_nothing() {
        let groups = [group("a", None, Some("A")), group("z", Some(0), Some("Z"))];
        assert_eq!(of(&groups).preferred_role.as_deref(), Some("Z"));
        assert_eq!(of(&groups[..1]).preferred_role.as_deref(), Some("A"));
        let gone = GroupClaims::of(&groups, &BTreeSet::from(["gone".to_owned()]));
        assert_eq!(gone, GroupClaims { groups: vec![], roles: vec![], preferred_role: None });
        let mut claims = Map::new();
        gone.write_id(&mut claims);
        assert!(claims.is_empty());
    }
}
