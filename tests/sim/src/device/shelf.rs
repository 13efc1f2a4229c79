//! The bytes of variants on the disk of a device: two or three of them.

use fieldfare_fleet::install::Installed;
use fieldfare_fleet::{ReleaseId, VariantName};

/// The bytes of a variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bytes {
    Whole,
    /// Not those of the release any more.
    Changed,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf(Vec<(ReleaseId, VariantName, Bytes)>);

fn is_of(release: &ReleaseId, variant: &VariantName, installed: &Installed) -> bool {
    (release, variant) == (&installed.release, &installed.variant)
}

impl Shelf {
    pub(crate) fn bytes(&self, installed: &Installed) -> Option<Bytes> {
        self.of(&installed.release, &installed.variant)
    }

    pub(crate) fn of(&self, release: &ReleaseId, variant: &VariantName) -> Option<Bytes> {
        let found = self.0.iter().find(|(r, v, _)| (r, v) == (release, variant));
        found.map(|(_, _, bytes)| *bytes)
    }

    pub(crate) fn put(&mut self, installed: &Installed) {
        self.remove(installed);
        self.0
            .push((installed.release.clone(), installed.variant.clone(), Bytes::Whole));
    }

    pub(crate) fn remove(&mut self, installed: &Installed) {
        self.0
            .retain(|(release, variant, _)| !is_of(release, variant, installed));
    }

    pub(crate) fn keep_only(&mut self, kept: &[&Installed]) {
        self.0
            .retain(|(release, variant, _)| kept.iter().any(|installed| is_of(release, variant, installed)));
    }

    /// Other bytes take the place of those of a variant. False where there are none.
    pub(crate) fn damage(&mut self, installed: &Installed) -> bool {
        let found = self
            .0
            .iter_mut()
            .find(|(release, variant, _)| is_of(release, variant, installed));
        found.map(|(_, _, bytes)| *bytes = Bytes::Changed).is_some()
    }
}
