"""The page says what claims and evidence say, in three formats; expectations are worked out by hand."""

import base64
import configparser
import io
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from checkout import NASTY, PNG, Checkout, as_of_today
from PIL import Image

from jellyplus.__main__ import main
from jellyplus._errors import InputError
from jellyplus.reproduction import page
from jellyplus.reproduction.source import libraries


class Rows(HTMLParser):
    """The text of the cells of every ``tbody.item``, by label, and the attributes of all elements."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.label, self.elements = [], None, []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "tbody" and "item" in attributes.get("class", ""):
            self.rows.append({})
        if tag == "td":
            self.label = attributes.get("data-label")

    def handle_endtag(self, tag):
        if tag == "td":
            self.label = None

    def handle_data(self, data):
        if self.label:
            self.rows[-1][self.label] = self.rows[-1].get(self.label, "") + data


@pytest.fixture
def checkout(tmp_path, make_evidence, monkeypatch):
    monkeypatch.chdir(tmp_path)
    as_of_today(monkeypatch)
    return Checkout(tmp_path, make_evidence)


@pytest.fixture
def build(checkout):
    """Return a function that makes the page's files, as text, by kind."""

    def build(*roots):
        made = page.collect(checkout.reproductions, roots or [checkout.results])
        files = page.render(made, checkout.results)
        return {name.removeprefix("index."): content.decode() for name, content in files.items()}

    return build


def rows_of(html, method):
    return [row for row in Rows(html).rows if row["Method"].startswith(method)]


def test_values_stand_beside_the_papers(build):
    html = build()["html"]
    (full,) = rows_of(html, "Full")
    # 89.9, 90.0, 90.1: mean 90, deviation 0.1, as printed
    assert (full["Paper"], full["Ours"], full["Ours − paper"]) == ("90.00 ± 0.10", "90.00 ± 0.10", "0.00")
    assert (full["Seeds"], full["Status"]) == ("3", "reproduced")
    assert full["Measured on"] == "paperreal data: cifar10"
    assert full["Method"] == "Fullthe text prints 91"
    (bare,) = rows_of(html, "Bare")
    assert (bare["Ours"], bare["Seeds"], bare["Status"]) == ("70.50 ± 0.71", "2", "stand-in")
    assert bare["Measured on"] == "embeddedstand-in: digits, 16x16, width 4, 1,437 images"
    assert "Ours − paper" not in bare  # an empty cell: stand-in data are not compared
    (never,) = rows_of(html, "Never")
    assert (never["Status"], never.keys() & {"Ours", "Seeds", "Measured on"}) == ("not-run", set())
    (exact,) = rows_of(html, "50%")
    assert (exact["Paper"], exact["Ours"], exact["Status"], exact["Measured on"]) == (
        "128",
        "128",
        "consistent",
        "computed",
    )


def test_a_gain_is_that_of_the_same_seeds_and_scale(build, checkout):
    (full,) = rows_of(build()["html"], "Full")
    assert full["Gain, paper"] == "+2.00"  # 90 - 88
    assert "Gain, ours" not in full  # the baseline has stand-in data only
    for seed in range(2):
        checkout.add("paper", {"im_loss": None}, seed=seed, accuracy_last=70.0 + seed)
    built = build()
    (full,) = rows_of(built["html"], "Full")
    # seeds 0 and 1 of 'full' minus those of 'bare': 89.9 - 70 and 90.0 - 71, 19.45 on average
    assert (full["Gain, paper"], full["Gain, ours"]) == ("+2.00", "+19.45 too few seeds")
    assert "Gains over a baseline: 1 printed, 1 measured on real data and current (1 too few seeds)." in built["html"]
    # differences of 19.9 and 19: t of 97.5 % with one degree of freedom, 12.706, times 0.45 is 5.72
    assert "| +2.00 | +19.45 (+13.73 to +25.17) too few seeds |" in built["md"]
    checkout.add("paper", {"im_loss": None}, seed=2, accuracy_last=71.0)
    assert "(1 agrees)" in build()["tex"]


def test_the_first_lines_say_how_much_was_measured_and_on_what(build):
    text = build()["md"].partition("## ")[0]
    verdict = "**1 of 3 trained results can be held against their papers: 1 reproduced."
    assert f"{verdict} Gains over a baseline: 1 printed, 0 measured on real data and current.**" in text
    # quoted in both tables; full, bare, never and batch in the first
    assert (
        "The papers' 2 tables print 6 results (cells). 2 are quoted from others; the\nother 4 are for us to measure"
        in text
    )
    table = dict(re.findall(r"^\| \**([\w-]+)[^|]*\|(.*)\|$", text, re.MULTILINE))
    # cells, reproduced, below, above, consistent, partial, stand-in, stale
    assert table["paper"].split("|") == [" 1 ", " 1 ", " 0 ", " 0 ", " 0 ", " 0 ", " 0 ", " 0 "]
    assert table["embedded"].split("|") == [" 1 ", " 0 ", " 0 ", " 0 ", " 0 ", " 0 ", " 1 ", " 0 "]
    assert table["small"].split("|")[0] == " 0 "
    assert table["computed"].split("|") == [" 1 ", " 0 ", " 0 ", " 0 ", " 1 ", " 0 ", " 0 ", " 0 "]
    assert table["not-run"].split("|")[0] == " 1 "
    assert "stand-in data" in text
    assert "* 5 runs on cpu" in text


def test_deleting_evidence_changes_the_page(build, checkout):
    checkout.add("small", accuracy_last=60.0)
    (full,) = rows_of(build()["html"], "Full")
    assert full["Status"] == "reproduced"  # the paper's profile before any other
    checkout.full[0].unlink()
    (full,) = rows_of(build()["html"], "Full")
    assert (full["Ours"], full["Seeds"], full["Status"]) == ("90.05 ± 0.07", "2", "partial")
    for path in checkout.full[1:]:
        path.unlink()
    (full,) = rows_of(build()["html"], "Full")
    assert (full["Ours"], full["Ours − paper"], full["Status"]) == ("60.00", "-30.00", "partial")
    assert full["Measured on"].startswith("smallreal data")


def test_old_code_is_stale_and_said_to_be(build, checkout):
    checkout.add("small", {"model": {"time_steps": 2}}, accuracy_last=50.0, code="0" * 64)
    html = build()["html"]
    (never,) = rows_of(html, "Never")
    assert (never["Ours"], never["Status"]) == ("50.00", "stale")
    assert html.count("for today's code stale: loss of step: 1 values, now nothing") == 1
    assert html.count("for today's code current") == html.count("for today's code") - 1


def test_the_settings_of_public_code_are_a_scale_of_their_own_and_not_the_papers(build, checkout):
    with open(checkout.folder / "recipes/imloss/profiles.yaml", "a") as profiles:
        profiles.write('official:\n  "*":\n    neuron: {strict: true}\n')
    for seed in range(3):
        checkout.add("official", {"model": {"time_steps": 2}}, seed=seed, accuracy_last=90.0 + seed / 10)
    (never,) = rows_of(build()["html"], "Never")
    assert (never["Ours"], never["Seeds"], never["Status"]) == ("90.10 ± 0.10", "3", "partial")
    assert never["Measured on"].startswith("official")


def test_smoke_is_no_measurement(build, checkout):
    checkout.add("smoke", {"model": {"time_steps": 2}})
    (never,) = rows_of(build()["html"], "Never")
    assert never["Status"] == "not-run"


def test_of_several_folders_others_add_and_where_two_disagree_both_values_are_shown(build, checkout):
    overrides = {"model": {"time_steps": 2}}
    one = checkout.add("small", overrides, root="a", accuracy_last=50.0)
    same = checkout.folder / "b" / one.relative_to(checkout.folder / "a")
    same.parent.mkdir(parents=True)
    shutil.copy(one, same)  # equal evidence counts once
    checkout.add("small", overrides, root="b", accuracy_last=60.0, seed=1)
    roots = [checkout.folder / name for name in ("a", "b", "none")]
    (never,) = rows_of(build(*roots)["html"], "Never")
    assert (never["Ours"], never["Seeds"]) == ("55.00 ± 7.07", "2")
    same.unlink()
    other = checkout.add("small", overrides, root="b", accuracy_last=90.0)
    html = build(*roots)["html"]
    (never,) = rows_of(html, "Never")
    assert (never["Status"], never.keys() & {"Ours", "Seeds"}) == ("conflict", set())
    assert "seed 0 has 50.00 (code cccccccccccc, cpu) and 90.00 (code cccccccccccc, cpu)" in never["Method"]
    links = {unquote(a["href"]) for tag, a in Rows(html).elements if tag == "a"}
    assert {
        path for path in (one, other) if any(link.endswith(str(path.relative_to(checkout.folder))) for link in links)
    }
    assert "seed 0: 90.00 % accuracy" in html


def test_provenance_is_there_for_whom_asks(build, checkout):
    html = build()["html"]
    text = " ".join(re.sub(r"<[^>]+>", " ", html).split())
    assert "imloss/cifar10_cifarnet_t4 with model.time_steps = 2" in text
    assert "seed 1: 71.00 % accuracy after 100 of 100 epochs; 1,437 training and 360 test examples of digits" in text
    assert "commit 0123456789ab, code" in text
    assert f"cpu, neurons by cpp, 2 s; lightning {libraries()['lightning']}, numpy" in text
    links = {a["href"] for tag, a in Rows(html).elements if tag == "a" and not a["href"].startswith("#")}
    targets = {(checkout.results / unquote(link)).resolve() for link in links}
    assert targets == {*checkout.full, *checkout.bare, checkout.folder / "recipes/imloss/cifar10_cifarnet_t4.yaml"}


def test_papers_and_tables_come_in_order(build):
    files = build()
    for kind, heading in {"html": "<h3>", "md": "### ", "tex": r"\subsection*{"}.items():
        titles = [line.partition(heading)[2] for line in files[kind].splitlines() if line.startswith(heading)]
        assert [re.match(r"[\w-]+, [\w.]+ \d+", title)[0] for title in titles] == [
            "Dspike, Fig. 3",
            "IM-Loss, Table 2",
            "IM-Loss, Table 10",
        ]


def test_rows_keep_the_papers_order(build):
    methods = [row["Method"] for row in Rows(build()["html"]).rows]
    assert [method[:4] for method in methods] == ["Thei", "Bare", "Full", "Neve", "50% ", "Thei"]


def test_html_shows_every_character_as_it_is(build):
    html = build()["html"]
    assert rows_of(html, "50%")[0]["Method"] == NASTY
    assert "<b>*bold*" not in html


def test_markdown_rows_have_as_many_cells_as_the_head(build):
    text = build()["md"]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    width = None
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        cells = len(re.split(r"(?<!\\)\|", line))
        width = cells if following.startswith("|:--") else width
        assert cells == width
    nasty = next(line for line in lines if "50%" in line)
    assert r"\<b\>\*bold\*\</b\>" in nasty
    assert re.sub(r"\\([^\w\s]|_)", r"\1", nasty).count(NASTY) == 1  # what a reader of Markdown makes of it


def test_tex_is_balanced_and_has_no_bare_special(build):
    text = build()["tex"]
    assert text.count(r"\begin{") == text.count(r"\end{")
    environments = []
    for what, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
        if what == "begin":
            environments.append(name)
        else:
            assert environments.pop() == name
    bare = re.sub(r"\\.", "", text)
    assert bare.count("{") == bare.count("}")
    row = next(line for line in text.splitlines() if "50" in line and "textbackslash" in line)
    assert row.startswith("CIFAR-10 & 50\\% \\& \\$x\\_1\\$ \\#2 \\{a\\} \\textasciitilde{}b\\textasciicircum{}c ")
    assert not set("#%$^~") & set(re.sub(r"\\.", "", row))
    head = next(line for line in text.splitlines() if line.startswith("Data set") and "Gain" in line)
    assert re.sub(r"\\.", "", row).count("&") == head.count("&")
    assert not re.search(r"\\\\\s*[\[*]", text)  # would be read as a part of the line break


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_latex_typesets_it(build, tmp_path):
    (tmp_path / "index.tex").write_text(build()["tex"])
    made = subprocess.run(["pdflatex", "-halt-on-error", "index.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout[-2000:]
    assert (tmp_path / "index.pdf").exists()


def test_pictures_are_inside_the_page(build, checkout):
    for profile in ("embedded", "small"):
        checkout.draw(profile, "table2_imloss")
    checkout.draw("embedded", "figure3_dspike")
    files = build()
    sources = [attributes["src"] for tag, attributes in Rows(files["html"]).elements if tag == "img"]
    assert [decoded(source).size for source in sources] == [(1, 1)] * 2
    links = [unquote(attributes["href"]) for tag, attributes in Rows(files["html"]).elements if tag == "a"]
    assert [link for link in links if link.endswith(".png")] == [
        "embedded/figure3_dspike/figure.png",
        "small/table2_imloss/table.png",
    ]
    for link in re.findall(r"\]\(([^)]*png)\)", files["md"]):
        assert (checkout.results / re.sub(r"\\(.)", r"\1", unquote(link))).is_file()
    assert "Our curves: 1 computed, 1 stand-in, 1 not-run." in files["md"]
    assert "Measured on embedded: stand-in data" in files["md"]
    assert "\n[Picture on stand-in data](embedded/figure3" in files["md"]


def decoded(source):
    """The picture of an ``src``, whole."""
    content = base64.b64decode(source.removeprefix("data:image/webp;base64,"), validate=True)
    return Image.open(io.BytesIO(content), formats=["WEBP"]).convert("RGB")


def drawings():
    """Those that are committed, each once."""
    root = Path(page.__file__).parents[3] / "reproductions/measured"
    profiles = [profile for profile in page.SCALES if (root / profile).is_dir()]
    found = {path.parent.name: path for profile in profiles[::-1] for path in (root / profile).glob("*/*e.png")}
    return list(found.values())


def test_pictures_look_as_their_files_do():
    for path in drawings()[::8]:
        picture = page.Picture(path, "small")
        seen, drawn = np.asarray(decoded(picture.uri), int), np.asarray(Image.open(path).convert("RGB"), int)
        assert seen.shape == drawn.shape
        assert picture.width == round(drawn.shape[1] * 0.64)
        assert abs(seen - drawn).max() <= 16  # of 255: half the distance of 9 levels
        assert (seen[drawn == 255] == 255).all()  # white grounds and black letters stay what they are
        assert (seen[drawn == 0] == 0).all()


def test_the_page_of_the_committed_results_is_small():
    """2 MB: what its pictures take, and 0.6 MB of text, more than it has."""
    pictures = [page.Picture(path, "small").uri for path in drawings()]
    assert len(pictures) >= 36
    assert sum(map(len, pictures)) < 1.33e6  # the page has 0.6e6 besides, and is to have less than 2e6


def test_a_picture_that_is_longer_than_webp_can_be_is_made_smaller(tmp_path):
    Image.new("RGB", (20, 20000), "red").save(tmp_path / "table.png")
    image = decoded(page.Picture(tmp_path / "table.png", "small").uri)
    assert image.height == 16383  # the most that the format has
    assert image.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("content", [b"", b"<svg onload='alert(1)'/>", PNG[:40]])
def test_what_is_no_picture_is_one_sentence_and_no_page(checkout, capsys, content):
    checkout.draw("small", "table2_imloss").write_bytes(content)
    assert main(["report", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert "cannot read the image results/small/table2_imloss/table.png" in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


def test_numbers_on_stand_ins_are_behind_a_switch_that_is_off_and_in_no_text(build, checkout):
    for name in ("table2_imloss", "figure3_dspike"):
        checkout.draw("embedded", name)
    files = build()
    for kind in ("md", "tex"):
        assert "70.50" not in files[kind]
        assert "they are not in this text, index.html" in files[kind]
    html = files["html"]
    switch = html.index('<input type="checkbox" class="switch" id="stand-ins">')
    assert switch < html.index("<main>")
    assert ".switch:not(:checked) ~ main .of-stand-in" in html
    page = Hidden(html)
    assert "70.50" in page.hidden
    assert "71.00 % accuracy" in page.hidden
    assert "70.50" not in page.shown
    assert "71.00 % accuracy" not in page.shown
    assert page.hidden.count("<img>") == 2
    assert "<img>" not in page.shown
    assert "90.00" in page.shown  # the paper's data


class Hidden(HTMLParser):
    """Text and pictures that the switch hides, and the others."""

    def __init__(self, text):
        super().__init__()
        self.open, self.shown, self.hidden = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        if tag == "img":
            self.handle_data("<img>")
        elif tag not in ("meta", "link", "input", "br"):
            self.open.append((tag, "of-stand-in" in dict(attributes).get("class", "").split()))

    def handle_endtag(self, tag):
        while self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if any(hides for _, hides in self.open):
            self.hidden += data
        else:
            self.shown += data


def test_what_a_figure_has_is_what_evidence_says_drawn_or_not(build, checkout):
    text = build()["md"]
    assert "Our curves: 1 computed, 1 stand-in, 1 not-run." in text
    assert "0 of 1" in text
    for path in checkout.bare:
        path.unlink()
    assert "Our curves: 1 computed, 2 not-run." in build()["md"]


def test_a_page_needs_no_network(build, checkout):
    checkout.draw("small", "table2_imloss")
    html = build()["html"]
    assert "http:" not in html
    assert "https:" not in html
    assert str(checkout.folder) not in html  # links are relative
    for tag, attributes in Rows(html).elements:
        assert tag != "script" or "src" not in attributes
        assert tag != "link" or attributes["href"] == "data:,"


def test_the_same_evidence_gives_the_same_page(build):
    assert build() == build()


def test_the_command_writes_the_three_files(checkout, capsys):
    assert main(["report"]) == 0
    assert {path.name for path in checkout.results.glob("index.*")} == {"index.html", "index.md", "index.tex"}
    out = capsys.readouterr().out
    assert "Of 6 cells: 1 reproduced, 1 consistent, 1 stand-in, 1 not-run, 2 reported." in out
    assert "Written: results/index.html" in out


@pytest.mark.parametrize("name", ["table_of_mine", "table7_lenet"])
def test_claims_of_ones_own_stand_behind_the_papers(checkout, build, name):
    text = (checkout.reproductions / "claims/table10_imloss.yaml").read_text()
    text = text.replace("paper: imloss", "paper: LeNet", 1).replace(
        "IM-Loss, Table 10: a table", "Mine: a table of mine"
    )
    checkout.claim(name, text.replace("printed_in: Guo et al., Table 10", "printed_in: our notebook"))
    html = build()["html"]
    assert "our notebook" in html
    assert -1 < html.index('<section id="imloss">') < html.index('<section id="LeNet">')
    assert f'<section class="block" id="{name}">' in html
    with (checkout.reproductions / "papers.yaml").open("a") as file:
        file.write('LeNet: {short: LeNet-5, citation: "LeCun et al., 1998"}\n')
    html = build()["html"]
    assert "LeNet-5" in html
    assert "LeCun et al., 1998" in html


def test_a_list_of_papers_that_cannot_be_read_is_one_sentence(checkout, capsys):
    (checkout.reproductions / "papers.yaml").write_text("imloss: {short: IM-Loss}")
    assert main(["report"]) == 2
    assert "papers.yaml, imloss: key 'citation' is missing" in capsys.readouterr().err
    assert not list(checkout.results.glob("index.*"))


def test_the_five_papers_are_listed():
    listed = page.collect.__globals__["_papers"](Path(page.__file__).parents[3] / "reproductions")
    assert [known.short for known in listed.values()] == ["tdBN", "Dspike", "IM-Loss", "InfLoR", "shortcut"]


@pytest.mark.parametrize(
    ("spoil", "words", "reason"),
    [
        (lambda c: None, ["--reproductions", "nowhere"], "no claims in nowhere/claims"),
        (lambda c: None, ["--root", "results", "nowhere"], "--root nowhere is no folder"),
        (lambda c: c.full[0].write_text("{"), [], "damaged"),
        (lambda c: c.claim("my_imloss", ""), [], "begin with table, compare or figure"),
        (lambda c: c.claim("table2_imloss", "title: 1"), [], "key"),
        (lambda c: c.claim("figure3_dspike", "title: 1"), [], "key"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(checkout, capsys, spoil, words, reason):
    spoil(checkout)
    before = sorted(checkout.folder.rglob("*"))
    assert main(["report", "--out", "out", *words]) == 2
    error = capsys.readouterr().err
    assert reason in error
    assert error.count("\n") == 1
    assert sorted(checkout.folder.rglob("*")) == before


def test_an_out_that_is_a_file(checkout):
    (checkout.folder / "out").touch()
    assert main(["report", "--out", "out"]) == 2


def test_the_templates_are_packaged():
    root = Path(page.__file__).parents[3]
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    patterns = [pattern.strip() for pattern in config["options.package_data"]["jellyplus"].split(",")]
    packaged = {path for pattern in patterns for path in (root / "jellyplus").glob(pattern)}
    templates = set((root / "jellyplus/reproduction/templates").iterdir())
    assert len(templates) == 3
    assert templates <= packaged


def test_collect_names_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no claims"):
        page.collect(tmp_path, [])


def test_a_comparison_of_ones_own_comes_first_and_has_no_columns_of_a_paper(checkout, build):
    text = (checkout.reproductions / "claims/table2_imloss.yaml").read_text().partition("- {id: never")[0]
    text = text.replace("paper: imloss", "paper: mine", 1)
    text = re.sub(r" paper: [\d.]+", " paper: null", re.sub(r"paper_std: [\d.]+", "paper_std: null", text))
    checkout.claim("compare_mine", text)
    files = build()
    html = files["html"]
    assert -1 < html.index('<section id="mine">') < html.index('<section id="dspike">')
    assert "What 2 papers on" in html  # it is none
    assert "The papers' 2 tables print 6 results" in html.replace("\n", " ")
    own, _, others = html.partition('<section class="block" id="compare_mine">')[2].partition("</section>")
    assert ">Paper</th>" in others
    assert not re.search(r">Paper</th>|Ours − paper|Gain, paper", own)
    columns = {int(number) for number in re.findall(r'colspan="(\d+)"', own)}
    assert columns == {len(re.findall("<th ", own))}
    tables = [table for table in files["md"].split("\n\n") if table.startswith("| Data set | Method |")]
    heads = [table.splitlines()[0] for table in tables]
    assert [" Paper |" in head for head in heads] == [False, True, True]
    assert not re.search("Ours - paper|Gain, paper", heads[0])
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table
    heads = [line for line in files["tex"].splitlines() if line.startswith("Data set & Method")]
    assert ["& Paper &" in head for head in heads] == [False, True, True]
    specs = re.findall(r"\\begin\{longtable\}\{(L.*)\}\n", files["tex"])
    assert [len(re.findall(r"L\{[^}]*\}|[lr]", spec)) for spec in specs] == [head.count("&") + 1 for head in heads]
