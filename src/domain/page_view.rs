//! The page view, and a partial change of one.

use super::{CreatedAt, PageUrl, RequestId, UserId};

/// One page, viewed by one user at one time, under the identity that the client chose.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageView {
    /// The identity: repeating it repeats the same view.
    pub request_id: RequestId,
    /// Whose report counts it.
    pub user_id: UserId,
    /// When it happened.
    pub created_at: CreatedAt,
    /// What was viewed.
    pub page_url: PageUrl,
}

/// The fields to change; `None` keeps what is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PageViewChange {
    /// A new owner.
    pub user_id: Option<UserId>,
    /// A new time.
    pub created_at: Option<CreatedAt>,
    /// A new page.
    pub page_url: Option<PageUrl>,
}

impl PageViewChange {
    /// The view with the change applied.
    pub fn apply(&self, view: &PageView) -> PageView {
        PageView {
            request_id: view.request_id,
            user_id: self.user_id.unwrap_or(view.user_id),
            created_at: self.created_at.unwrap_or(view.created_at),
            page_url: self
                .page_url
                .clone()
                .unwrap_or_else(|| view.page_url.clone()),
        }
    }
}
