//! Pictures over steps, trials side by side. Without the script all are there, in a row each.

use super::content::Gallery;
use maud::{Markup, html};
use std::collections::BTreeSet;

pub fn gallery(gallery: &Gallery) -> Markup {
    let all = || gallery.series.iter().flat_map(|s| &s.pictures);
    let steps: BTreeSet<u64> = all().filter_map(|p| p.step).collect();
    let told = |label: &str, step: Option<u64>| {
        let of = if label.is_empty() { String::new() } else { format!(", {label}") };
        let at = step.map_or_else(String::new, |step| format!(", step {step}"));
        format!("{}{of}{at}", gallery.title)
    };
    html! {
        section.gallery.wide[gallery.series.len() > 1] aria-label=(gallery.title) {
            h3 { (gallery.title) }
            @if steps.len() > 1 {
                div.slider hidden {
                    label { "Step " input type="range" min="0" max=(steps.len() - 1) value=(steps.len() - 1)
                        data-steps=(steps.iter().map(u64::to_string).collect::<Vec<_>>().join(" ")); }
                    output {}
                }
            }
            div.side-by-side.scroll tabindex="0" role="region" aria-label=(gallery.title) {
                @for series in &gallery.series {
                    div.series {
                        @if !series.label.is_empty() { h4 { (series.label) } }
                        div.strip {
                            @for picture in &series.pictures {
                                figure data-step=[picture.step] {
                                    img decoding="async" src=(picture.address) alt=(told(&series.label, picture.step));
                                    @if let Some(step) = picture.step { figcaption { "step " (step) } }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
