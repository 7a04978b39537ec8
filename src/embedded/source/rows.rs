//! The generated posts: pure, the same for the same seed, of the original's shapes and frequencies.

use std::collections::HashSet;

use chrono::{NaiveDate, NaiveDateTime, TimeDelta};
use fake::Fake;
use fake::faker::company::en::{BsAdj, BsNoun, BsVerb, CompanyName};
use fake::faker::name::en::{FirstName, LastName};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt, SeedableRng};
use uuid::Uuid;

use super::words::{ADJECTIVES, CATEGORIES, COUNTRIES, KINDS, MARKS};

/// As many rows as the original's tables have.
pub const ROWS: u32 = 11_154;

/// The seed of the embedded tables.
pub const SEED: u64 = 0x7069_6e73; // "pins"

const TITLE_MISSING: &str = "No Title Data Available";
const STORY_DESCRIPTION: &str = "No description available Story format";
const DESCRIPTION_MISSING: &str = "No description available";
const USER_MISSING: &str = "User Info Error";
const TAGS_MISSING: &str = "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e";
const IMAGE_MISSING: &str = "Image src error.";
const STORY: &str = "multi-video(story page format)";

/// One key's rows in all three tables.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are the tables' columns")]
pub struct Post {
    pub index: i32,
    pub unique_id: Uuid,
    pub title: String,
    pub description: String,
    pub poster_name: String,
    pub follower_count: String,
    pub tag_list: String,
    pub is_image_or_video: &'static str,
    pub image_src: String,
    pub downloaded: i32,
    pub save_location: String,
    pub category: &'static str,
    pub timestamp: NaiveDateTime,
    pub latitude: f32,
    pub longitude: f32,
    pub country: &'static str,
    pub first_name: String,
    pub last_name: String,
    pub age: i32,
    pub date_joined: NaiveDateTime,
}

/// What is missing from a post, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Image,
    Story,
    Video,
    ImageWithoutDescription,
    StoryWithImageError,
    NothingKnown,
    TagsMissing,
    VideoWithoutDescription,
    Untitled,
}

/// How often each shape was found in 877 rows of the original.
const SHAPES: [(Shape, u32); 9] = [
    (Shape::Image, 768),
    (Shape::Story, 42),
    (Shape::Video, 24),
    (Shape::ImageWithoutDescription, 14),
    (Shape::StoryWithImageError, 13),
    (Shape::NothingKnown, 10),
    (Shape::TagsMissing, 4),
    (Shape::VideoWithoutDescription, 1),
    (Shape::Untitled, 1),
];

/// Who posts: decides the user's row, the coordinates and the country.
struct Poster {
    name: String,
    follower_count: String,
    first_name: String,
    last_name: String,
    age: i32,
    date_joined: NaiveDateTime,
    latitude: f32,
    longitude: f32,
    country: &'static str,
}

/// The first `count` rows of `seed`, in key order.
pub fn generate(count: u32, seed: u64) -> impl Iterator<Item = Post> {
    let mut random = StdRng::seed_from_u64(seed);
    let shapes = shapes(count, &mut random);
    // About as many posters per row as the original has; the first of them is the one nobody knows.
    let posters = posters(usize::try_from(count).unwrap_or(usize::MAX) * 6 / 10 + 1, &mut random);
    shapes.into_iter().zip(0_u32..).map(move |(shape, index)| {
        let poster = match shape {
            Shape::NothingKnown => &posters[0],
            _ => &posters[1 + skewed(posters.len() - 1, 1.6, &mut random)],
        };
        let block = usize::try_from(u64::from(index) * CATEGORIES.len() as u64 / u64::from(count)).unwrap_or(0);
        post(index.cast_signed(), shape, poster, block, &mut random)
    })
}

/// Each shape as often as in the original, in an order of chance.
fn shapes(count: u32, random: &mut impl Rng) -> Vec<Shape> {
    let total: u32 = SHAPES.iter().map(|(_, often)| often).sum();
    let mut shapes = Vec::new();
    for (shape, often) in SHAPES {
        let share = (u64::from(often) * u64::from(count) + u64::from(total) / 2) / u64::from(total);
        shapes.extend(std::iter::repeat_n(shape, usize::try_from(share).unwrap_or(0)));
    }
    shapes.resize(usize::try_from(count).unwrap_or(0), Shape::Image);
    shapes.shuffle(random);
    shapes
}

fn posters(count: usize, random: &mut impl Rng) -> Vec<Poster> {
    let mut taken = HashSet::from([USER_MISSING.to_owned()]);
    let mut posters = vec![poster(USER_MISSING.to_owned(), USER_MISSING.to_owned(), random)];
    while posters.len() <= count {
        let mut name = match random.random_range(0..4) {
            0 => CompanyName().fake_with_rng(random),
            1 => {
                format!("{} {}", ADJECTIVES.choose(random).unwrap_or(&""), BsNoun().fake_with_rng::<String, _>(random))
            }
            2 => format!("{} | {} & {}", FirstName().fake_with_rng::<String, _>(random), noun(random), noun(random)),
            _ => format!(
                "{} {}",
                FirstName().fake_with_rng::<String, _>(random),
                LastName().fake_with_rng::<String, _>(random)
            ),
        };
        if !taken.insert(name.clone()) {
            name = format!("{name} {}", posters.len());
            taken.insert(name.clone());
        }
        let followers = follower_count(random);
        posters.push(poster(name, followers, random));
    }
    posters
}

fn poster(name: String, follower_count: String, random: &mut impl Rng) -> Poster {
    let age = match random.random_range(0..100) {
        0..45 => random.random_range(20..=24),
        45..72 => random.random_range(25..=35),
        72..92 => random.random_range(36..=50),
        _ => random.random_range(51..=60),
    };
    // Most joined early: 2015-10-21 to 2017-10-19, the days counted by the square of chance.
    let joined = day(2015, 10, 21) + TimeDelta::days(skewed(730, 2.0, random) as i64);
    Poster {
        name,
        follower_count,
        first_name: FirstName().fake_with_rng(random),
        last_name: LastName().fake_with_rng(random),
        age,
        date_joined: joined + TimeDelta::seconds(random.random_range(0..86_400)),
        latitude: six_digits(-90.0 + 180.0 * random.random::<f64>().powf(1.6)),
        longitude: six_digits(-180.0 + 360.0 * random.random::<f64>().powf(1.3)),
        country: COUNTRIES[skewed(COUNTRIES.len(), 2.8, random)],
    }
}

/// Digits, with `k` or `M` behind most of them.
fn follower_count(random: &mut impl Rng) -> String {
    match random.random_range(0..100) {
        0..3 => "0".to_owned(),
        3..20 => random.random_range(1..1000).to_string(),
        20..90 => format!("{}k", 1 + skewed(999, 3.0, random)),
        _ => format!("{}M", 1 + skewed(15, 2.5, random)),
    }
}

fn post(index: i32, shape: Shape, poster: &Poster, block: usize, random: &mut impl Rng) -> Post {
    let (category, nouns) = CATEGORIES[block];
    let story = matches!(shape, Shape::Story | Shape::StoryWithImageError | Shape::NothingKnown);
    let video = matches!(shape, Shape::Video | Shape::VideoWithoutDescription);
    let no_image = matches!(shape, Shape::StoryWithImageError | Shape::NothingKnown);
    let seconds = (day(2022, 10, 19) - day(2017, 10, 20)).num_seconds();
    Post {
        index,
        unique_id: uuid::Builder::from_random_bytes(random.random()).into_uuid(),
        title: if shape == Shape::NothingKnown { TITLE_MISSING.to_owned() } else { title(nouns, random) },
        description: match shape {
            _ if story => STORY_DESCRIPTION.to_owned(),
            Shape::ImageWithoutDescription | Shape::VideoWithoutDescription => DESCRIPTION_MISSING.to_owned(),
            Shape::Untitled => ["Untitled", "Art."].choose(random).copied().unwrap_or_default().to_owned(),
            _ => description(nouns, random),
        },
        poster_name: poster.name.clone(),
        follower_count: poster.follower_count.clone(),
        tag_list: match shape {
            Shape::NothingKnown | Shape::TagsMissing => TAGS_MISSING.to_owned(),
            _ => (0..9).map(|_| tag(nouns, random)).collect::<Vec<_>>().join(","),
        },
        is_image_or_video: if story {
            STORY
        } else if video {
            "video"
        } else {
            "image"
        },
        image_src: if no_image { IMAGE_MISSING.to_owned() } else { image_src(story || video, random) },
        downloaded: i32::from(!no_image),
        save_location: format!("Local save in /data/{category}"),
        category,
        timestamp: day(2017, 10, 20) + TimeDelta::seconds(random.random_range(0..seconds)),
        latitude: poster.latitude,
        longitude: poster.longitude,
        country: poster.country,
        first_name: poster.first_name.clone(),
        last_name: poster.last_name.clone(),
        age: poster.age,
        date_joined: poster.date_joined,
    }
}

fn title(nouns: &[&'static str], random: &mut impl Rng) -> String {
    let mut title = match random.random_range(0..3) {
        0 => format!(
            "{} {} {} for {}",
            random.random_range(3..60),
            pick(ADJECTIVES, random),
            pick(nouns, random),
            pick(nouns, random)
        ),
        1 => format!(
            "{} {} {}: {}",
            pick(ADJECTIVES, random),
            pick(nouns, random),
            pick(KINDS, random),
            BsNoun().fake_with_rng::<String, _>(random)
        ),
        _ => format!(
            "How to {} {} {}",
            BsVerb().fake_with_rng::<String, _>(random),
            pick(ADJECTIVES, random),
            pick(nouns, random)
        ),
    };
    if random.random_range(0..3) == 0 {
        title.push_str(pick(MARKS, random));
    }
    title
}

/// Some sentences, cut at 180 characters with an ellipsis as the original's are.
fn description(nouns: &[&'static str], random: &mut impl Rng) -> String {
    let wanted = 60 + skewed(180, 0.6, random);
    let mut text = title(nouns, random);
    while text.chars().count() < wanted {
        let verb: String = BsVerb().fake_with_rng(random);
        let adjective: String = BsAdj().fake_with_rng(random);
        let noun: String = BsNoun().fake_with_rng(random);
        text.push_str(&format!(
            ". Learn to {verb} your {} {} with {adjective} {noun}",
            pick(ADJECTIVES, random),
            pick(nouns, random)
        ));
        if random.random_range(0..8) == 0 {
            text.push_str(pick(MARKS, random));
        }
    }
    match text.char_indices().nth(178) {
        Some((cut, _)) => format!("{}… ", &text[..cut]),
        None => text,
    }
}

fn tag(nouns: &[&'static str], random: &mut impl Rng) -> String {
    match random.random_range(0..4) {
        0 => format!("{} {}", pick(ADJECTIVES, random), pick(nouns, random)),
        1 => format!("{} {}", pick(nouns, random), pick(KINDS, random)),
        _ => format!("{} {}", pick(ADJECTIVES, random), pick(KINDS, random)),
    }
}

fn image_src(thumbnail: bool, random: &mut impl Rng) -> String {
    let hash = format!("{:032x}", random.random::<u128>());
    let (a, b, c) = (&hash[0..2], &hash[2..4], &hash[4..6]);
    if thumbnail {
        return format!("https://i.pinimg.com/videos/thumbnails/originals/{a}/{b}/{c}/{hash}.0000001.jpg");
    }
    let extension = if random.random_range(0..8) == 0 { "png" } else { "jpg" };
    format!("https://i.pinimg.com/originals/{a}/{b}/{c}/{hash}.{extension}")
}

fn noun(random: &mut impl Rng) -> &'static str {
    let (_, nouns) = CATEGORIES[random.random_range(0..CATEGORIES.len())];
    pick(nouns, random)
}

fn pick(words: &[&'static str], random: &mut impl Rng) -> &'static str {
    words.choose(random).copied().unwrap_or_default()
}

/// A position below `count`, the lower ones likelier the higher `power` is.
fn skewed(count: usize, power: f64, random: &mut impl Rng) -> usize {
    ((count as f64 * random.random::<f64>().powf(power)) as usize).min(count.saturating_sub(1))
}

/// A FLOAT of at most six significant digits, as MySQL shows one.
fn six_digits(value: f64) -> f32 {
    format!("{value:.5e}").parse().unwrap_or(0.0)
}

fn day(year: i32, month: u32, day: u32) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(year, month, day).unwrap_or_default().and_time(chrono::NaiveTime::MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn share(posts: &[Post], is: impl Fn(&Post) -> bool) -> f64 {
        posts.iter().filter(|post| is(post)).count() as f64 / posts.len() as f64
    }

    fn pin_bytes(post: &Post) -> usize {
        serde_json::json!({
            "index": post.index, "unique_id": post.unique_id, "title": post.title, "description": post.description,
            "poster_name": post.poster_name, "follower_count": post.follower_count, "tag_list": post.tag_list,
            "is_image_or_video": post.is_image_or_video, "image_src": post.image_src, "downloaded": post.downloaded,
            "save_location": post.save_location, "category": post.category,
        })
        .to_string()
        .len()
    }

    #[test]
    fn the_embedded_rows_have_the_originals_frequencies() {
        let posts: Vec<Post> = generate(ROWS, SEED).collect();
        assert_eq!(posts.len(), 11_154);
        let close = |found: f64, of_877: f64| (found - of_877 / 877.0).abs() < 0.001;
        assert!(close(share(&posts, |p| p.title == TITLE_MISSING), 10.0));
        assert!(close(share(&posts, |p| p.downloaded == 0), 23.0));
        assert!(close(share(&posts, |p| p.is_image_or_video == STORY), 65.0));
        assert!(close(share(&posts, |p| p.is_image_or_video == "video"), 25.0));
        assert!(close(share(&posts, |p| p.tag_list == TAGS_MISSING), 14.0));
        assert!(close(share(&posts, |p| p.description == DESCRIPTION_MISSING), 15.0));
        assert!((share(&posts, |p| (20..=24).contains(&p.age)) - 0.45).abs() < 0.03);
        assert!((share(&posts, |p| p.age > 50) - 0.08).abs() < 0.02);
        assert!(share(&posts, |p| p.country.starts_with('A')) > 0.25);
        let countries: BTreeSet<_> = posts.iter().map(|p| p.country).collect();
        assert!(countries.len() > 150 && COUNTRIES.len() >= 235, "{} of {}", countries.len(), COUNTRIES.len());
        let sizes: Vec<usize> = posts.iter().map(pin_bytes).collect();
        let mean = sizes.iter().sum::<usize>() as f64 / sizes.len() as f64;
        assert!((690.0..730.0).contains(&mean), "{mean}");
        let (least, most) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
        assert!(*least >= 400 && *most <= 960, "{least} to {most}");
        for mark in ["😍", "Красота", "\u{a0}", "\"", "|", "\\"] {
            assert!(posts.iter().any(|p| p.description.contains(mark)), "{mark}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn every_seed_keeps_the_tables_rules(seed: u64, count in 1..3_000_u32) {
            let posts: Vec<Post> = generate(count, seed).collect();
            prop_assert_eq!(posts.len(), count as usize);
            let mut users = BTreeMap::new();
            for (post, index) in posts.iter().zip(0..) {
                prop_assert_eq!(post.index, index);
                prop_assert_eq!(post.downloaded == 0, post.image_src == IMAGE_MISSING);
                prop_assert_eq!(post.poster_name == USER_MISSING, post.follower_count == USER_MISSING);
                prop_assert!(post.timestamp >= post.date_joined);
                prop_assert!((20..=60).contains(&post.age));
                prop_assert_eq!(post.tag_list.split(',').count(), if post.tag_list == TAGS_MISSING { 17 } else { 9 });
                let digits = post.follower_count.trim_end_matches(['k', 'M']);
                prop_assert!(post.follower_count == USER_MISSING || digits.parse::<u32>().is_ok());
                let significant = post.latitude.to_string().trim_start_matches(['-', '0', '.']).replace('.', "").len();
                prop_assert!(significant <= 6, "{}", post.latitude);
                let user = (&post.first_name, &post.last_name, post.age, post.date_joined, post.country);
                prop_assert_eq!(users.entry(&post.poster_name).or_insert(user), &user);
            }
            prop_assert!(posts.windows(2).all(|pair| pair[0].category <= pair[1].category));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_rows() {
        assert!(generate(200, 7).eq(generate(200, 7)));
        assert!(!generate(200, 7).eq(generate(200, 8)));
    }
}
