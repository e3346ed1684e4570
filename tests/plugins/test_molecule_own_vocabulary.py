"""``genflow vocabulary``: blocks of a user's fragments and molecules, and what was dropped and why."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest
from genflow_molecule.assembly import assemble, joints
from genflow_molecule.cleaning import Unusable, cleaned
from genflow_molecule.decomposition import Decomposer
from genflow_molecule.molecule_lines import MoleculeLine, read_lines
from genflow_molecule.own_vocabulary import Maker, OwnVocabulary, kind_of
from genflow_molecule.trees import Trees
from genflow_molecule.unused import fall_apart_unused
from genflow_molecule.vocabulary import entries_of, read_vocabulary
from PIL import Image
from processes import quickly, refused
from rdkit import Chem

from genflow import GenflowError, Progress

ROOT = Path(__file__).parents[2]
FRAGMENTS, DRUGS = ROOT / "examples" / "fragments.smi", ROOT / "tests" / "data" / "drugs.smi"


def made(
    *smiles: str,
    cut: str = "brics",
    max_blocks: int = 4096,
    min_count: int = 1,
    min_atoms: int = 1,
    max_atoms: int = 50,
) -> OwnVocabulary:
    kind = kind_of(smiles)
    lines = [MoleculeLine(number, each) for number, each in enumerate(smiles, 1)]
    maker = Maker(lines, kind, cut, (min_atoms, max_atoms), Progress(quiet=True))
    return maker.make(max_blocks, min_count)


def of(path: Path, cut: str = "brics", min_atoms: int = 1) -> OwnVocabulary:
    lines = read_lines(path)
    kind = kind_of(line.smiles for line in lines)
    return Maker(lines, kind, cut, (min_atoms, 50), Progress(quiet=True)).make(4096, 1)


def blocks_of(vocabulary: OwnVocabulary) -> dict[str, tuple[tuple[int, ...], tuple[int, ...], int]]:
    return {each.smiles: (each.stems, each.attachments, each.count) for each in vocabulary.blocks}


def why(vocabulary: OwnVocabulary) -> dict[int, str]:
    """Line -> the piece, if it is one, and the reason."""
    return {each.line: f"{each.piece} {each.why}".strip() for each in vocabulary.dropped}


# --- fragments


def test_attachment_points_in_every_spelling_are_one_fragment():
    vocabulary = made("[*:1]c1ccncc1", "*c1ccncc1", "[16*]c1ccncc1", "[*]c1ccncc1", "C1=CN=CC=C1[*:7]")
    (block,) = vocabulary.blocks
    assert (block.smiles, len(block.stems), block.attachments, block.count) == ("c1ccncc1", 1, block.stems, 5)
    # pyridin-4-yl: the carbon atom across from nitrogen
    atom = block.mol.GetAtomWithIdx(block.stems[0])
    assert Chem.GetDistanceMatrix(block.mol)[atom.GetIdx()].max() == 3 and atom.GetSymbol() == "C"
    assert why(vocabulary) == dict.fromkeys((2, 3, 4, 5), "is line 1 once more, and counts with it")


@pytest.mark.parametrize(
    ("smiles", "stems", "attached"),
    [
        ("[*]C[*]", ["C", "C"], ["C"]),
        ("[*]S([*])(=O)=O", ["S", "S"], ["S"]),
        ("[*]C(=O)N[*]", ["C", "N"], ["C", "N"]),
        ("[*]C(=O)N([*])[*]", ["C", "N", "N"], ["C", "N"]),
        ("[*]C([*])([*])[*]", ["C"] * 4, ["C"]),
    ],
)
def test_a_fragment_keeps_every_attachment_point(smiles, stems, attached):
    (block,) = made(smiles).blocks
    symbols = [atom.GetSymbol() for atom in block.mol.GetAtoms()]
    assert sorted(symbols[atom] for atom in block.stems) == stems
    assert sorted(symbols[atom] for atom in block.attachments) == attached


def test_fragments_that_are_one_molecule_are_one_block_that_serves_each():
    """Two blocks of one molecule, joined by atoms that are alike, would be refused."""
    vocabulary = made("*c1ccccc1", "*c1ccc(*)cc1", "*c1cccc(*)c1", "*C#N")
    benzene = vocabulary.blocks[0]
    assert (benzene.smiles, benzene.count, len(benzene.attachments), vocabulary.merged) == (
        "c1ccccc1",
        3,
        1,
        2,
    )
    distances = Chem.GetDistanceMatrix(benzene.mol)[benzene.attachments[0]]
    assert sorted(distances[atom] for atom in benzene.stems) == [0, 2, 3]  # itself, meta and para


def test_ortho_stands_beside_the_atom_that_is_joined():
    """Para and meta leave two neighbours open, but neither is the one by which the block is joined."""
    (benzene,) = made("*c1ccc(*)cc1", "*c1cccc(*)c1", "*c1ccccc1*").blocks
    distances = Chem.GetDistanceMatrix(benzene.mol)[benzene.attachments[0]]
    assert sorted(distances[atom] for atom in benzene.stems) == [0, 1, 2, 3]


def test_more_attachment_points_than_a_block_may_have_are_told():
    five = made("*C#N", "*C(*)(*)C(*)*")
    assert why(five) == {2: "has 5 attachment points; a block has at most 4"}
    # of benzene: para, meta and ortho take all four
    full = made("*c1ccc(*)cc1", "*c1cccc(*)c1", "*c1ccccc1*", "*c1cc(*)cc(*)c1")
    assert blocks_of(full)["c1ccccc1"][2] == 3
    assert "besides those of line 1, which has the same molecule; a block has at most 4" in why(full)[4]


# --- molecules


@pytest.mark.parametrize(("cut", "min_atoms"), [("brics", 1), ("rings", 1), ("brics", 3)])
def test_every_molecule_can_be_made_of_its_blocks_unless_a_line_says_that_it_cannot(cut, min_atoms):
    vocabulary = of(DRUGS, cut, min_atoms)
    told = {each.line for each in vocabulary.dropped}
    entries = entries_of(vocabulary.blocks)
    trees = Trees(12, *joints(entries))
    made_anew = 0
    for line, smiles, _ in read_lines(DRUGS):
        mol, _ = cleaned(smiles)
        if line not in told:
            state = Decomposer(entries, trees).states(mol)[0][0]
            slots = [slot for slot in state.unflatten(0, (-1, 3)).tolist() if slot[0]]
            assert Chem.MolToSmiles(assemble(entries, slots)) == Chem.MolToSmiles(mol), (line, smiles)
            made_anew += 1
    assert made_anew == len(read_lines(DRUGS)) - len(told) >= 44


def test_molecules_are_cut_by_brics_or_at_rings():
    paracetamol = "CC(=O)Nc1ccc(O)cc1"
    assert set(blocks_of(made(paracetamol))) == {"CC=O", "N", "Oc1ccccc1"}
    assert set(blocks_of(made(paracetamol, cut="rings"))) == {"CC(N)=O", "c1ccccc1", "O"}
    assert why(made(paracetamol, "CCCC")) == {2: "has no single bond that BRICS cuts"}
    # a bond between hetero atoms is none that blocks are joined by
    assert set(blocks_of(made("CC(=O)c1ccn(N(C)C)c1", cut="rings"))) == {"CC=O", "CN(C)n1cccc1"}


def test_pieces_that_are_too_small_stay_with_the_smallest_beside_them():
    paracetamol, anisole = "CC(=O)Nc1ccc(O)cc1", "COc1ccccc1"
    assert set(blocks_of(made(paracetamol, min_atoms=3))) == {"CC(N)=O", "Oc1ccccc1"}
    # O between ethyl and phenyl stays with ethyl, which is smaller
    assert set(blocks_of(made("CCOc1ccccc1", min_atoms=2))) == {"CCO", "c1ccccc1"}
    assert why(made(paracetamol, anisole, min_atoms=3)) == {
        2: "has no cut that leaves 3 atoms on either side; see --min-atoms"
    }
    mol = Chem.MolFromSmiles("CCOc1ccc(CN(C)C(=O)c2ccncc2)cc1")  # however it is spelled
    spellings = Chem.MolToRandomSmilesVect(mol, 20, randomSeed=1)
    assert len({made(smiles, min_atoms=3).blocks for smiles in spellings}) == 1
    for each in of(DRUGS, "rings", 4).blocks:
        assert each.mol.GetNumHeavyAtoms() >= 4


def test_blocks_count_the_lines_that_they_come_from_and_come_by_their_number():
    vocabulary = made("CC(=O)Nc1ccccc1", "COc1ccccc1", "CC(=O)Nc1ccccc1C", "C1CCCCC1Oc1ccccc1")
    counts = {smiles: count for smiles, (_, _, count) in blocks_of(vocabulary).items()}
    assert counts["c1ccccc1"] == 3 and counts["CC=O"] == 2
    assert list(counts.values()) == sorted(counts.values(), reverse=True)


def test_only_the_most_frequent_are_kept_when_few_are_asked_for():
    lines = [line.smiles for line in read_lines(DRUGS)]
    every = made(*lines)
    few = made(*lines, max_blocks=10)
    assert few.blocks == every.blocks[:10] and few.rare == 0
    assert [each.piece for each in few.left] == [block.smiles for block in every.blocks[10:]]
    often = made(*lines, min_count=3)
    assert often.blocks == tuple(block for block in every.blocks if block.count >= 3)
    assert often.rare == len(often.left) == len(every.blocks) - len(often.blocks) > 0
    assert often.dropped == few.dropped == every.dropped
    with_small = made(*lines, max_atoms=6).blocks
    assert with_small and max(block.mol.GetNumHeavyAtoms() for block in with_small) == 6


# --- what is cleaned, and what is dropped


@pytest.mark.parametrize(
    ("smiles", "plain", "done"),
    [
        ("CCN.Cl", "CCN", ["salts or solvents left out"]),
        ("CC(=O)[O-].[Na+]", "CC(=O)O", ["salts or solvents left out", "charges neutralised"]),
        ("O.O.*c1ccccc1", "*c1ccccc1", ["salts or solvents left out"]),
        ("CC(C)C[CH2]", "CCC(C)C", ["radicals filled with hydrogen"]),
        ("[2H]C([2H])O", "CO", ["isotopes left out"]),
        ("[13CH4]", "C", ["isotopes left out"]),
        ("[CH3:1][OH:2]", "CO", ["atom map numbers left out"]),
        ("C[C@H](N)C(=O)O", "CC(N)C(=O)O", ["stereochemistry left out"]),
        ("C/C=C/C", "CC=CC", ["stereochemistry left out"]),
        ("C[N+](=O)[O-]", "C[N+](=O)[O-]", []),
        ("C1=CC=CC=C1", "c1ccccc1", []),
    ],
)
def test_a_molecule_is_made_plain_and_what_was_done_is_told(smiles, plain, done):
    mol, told = cleaned(smiles)
    assert (Chem.MolToSmiles(mol), told) == (plain, done)


@pytest.mark.parametrize(
    ("smiles", "words"),
    [
        ("hello", "is no molecule"),
        ("", "is empty, or cannot be read"),
        ("c1ccccc", "is no molecule"),
        ("[R1]c1ccccc1", r"is no molecule; write attachment points as \[\*:1\]"),
        ("C" * 1001, "has 1,001 characters; at most 1,000"),
        ("[H][H]", "has no atoms besides hydrogen"),
        ("[Na+].[Cl-]", "has Na, which no block may have|has no organic part"),
        ("C[Hg]C", "has Hg, which no block may have"),
        ("O", "has no organic part"),
        ("*", "has no atoms besides hydrogen"),
        ("*=C", "an attachment point that is not at a single bond"),
        ("C*C", "has an attachment point with 2 bonds; it needs one"),
        ("**", "no atoms besides hydrogen|at a hydrogen or at another one"),
    ],
)
def test_what_is_no_block_is_refused_with_the_reason(smiles, words):
    with pytest.raises(Unusable, match=words):
        cleaned(smiles)


def test_every_line_that_is_dropped_is_named_with_its_reason():
    vocabulary = made(
        "CC(=O)Nc1ccccc1",  # 1
        "not_a_molecule",  # 2
        "CC(=O)Nc1ccccc1.Cl",  # 3, the same once its salt is left out
        "C1=CC=CC=C1NC(C)=O",  # 4, the same spelled otherwise
        "*c1ccccc1",  # 5
        "C[N+](C)(C)CCOC(C)=O",  # 6, a charge that stays
        "CCCC",  # 7
    )
    assert vocabulary.kind == "molecules" and vocabulary.lines == 7 and vocabulary.taken == 2
    told = why(vocabulary)
    assert set(told) == {2, 3, 4, 5, 6, 7}
    assert told[2] == "is no molecule" and told[3] == told[4] == "is line 1 once more"
    assert "has attachment points, but the file is taken for molecules; see --as" in told[5]
    assert "has a charge of +1" in told[6] and told[6].startswith("C")
    assert str(vocabulary.dropped[0]) == "line 2: molecule not_a_molecule is no molecule"
    lines = [MoleculeLine(7, "CCCC", "butane"), MoleculeLine(9, "CC(=O)Nc1ccccc1", "acetanilide")]
    (butane,) = Maker(lines, "molecules", "brics", (1, 50), Progress(quiet=True)).make(10, 1).dropped
    assert str(butane) == "line 7: molecule CCCC (butane) has no single bond that BRICS cuts"


def test_a_block_passes_the_check_of_the_file_that_it_is_in():
    for path in (FRAGMENTS, DRUGS):
        for block in of(path).blocks:
            assert block.fault() is None and block.canonical == block.smiles


def test_blocks_that_fall_apart_where_a_point_is_not_used_are_known():
    blocks = made(
        "*S(=O)(=O)*", "*SS*", "*OC(=O)N*", "*C(*)=O", "*OO*", "*S(=O)(=O)C", "*N(*)C", "*c1ccc(*)cc1"
    )
    assert [block.smiles for block in fall_apart_unused(blocks.blocks)] == ["O=[SH2]=O", "SS", "NC(=O)O"]


def test_one_of_anything_is_said_as_one(tmp_path):
    (tmp_path / "one.smi").write_text("*C* methylene\n")
    command = quickly(
        "vocabulary", tmp_path / "one.smi", "--out", tmp_path / "o.json", "--no-picture", folder=tmp_path
    )
    assert command.said("stdout").splitlines() == [
        "1 line, taken for fragments: 1 gives blocks",
        f"1 block, joined in 1 way, in {tmp_path / 'o.json'}",
        "attachment points to which nothing is joined become hydrogen",
        f'next: genflow generate --env molecule --structure "vocabulary={tmp_path}/o.json,max_blocks=5"',
    ]
    assert not (tmp_path / "o.dropped.csv").exists()


# --- files


TABLE = "name,SMILES\nanisole,COc1ccccc1\n\n# a remark\nnothing,\nacetanilide,CC(=O)Nc1ccccc1\n"


def test_tables_drawings_and_text_are_read(tmp_path):
    (tmp_path / "a.csv").write_text(TABLE)
    assert read_lines(tmp_path / "a.csv") == [
        (2, "COc1ccccc1", "anisole"),
        (5, "", "nothing"),
        (6, "CC(=O)Nc1ccccc1", "acetanilide"),
    ]
    (tmp_path / "a.smi").write_text(
        "smiles name\nCOc1ccccc1\tmethyl phenyl ether\t1.2\n\n#no\nCC(=O)Nc1ccccc1 acetanilide\r\n"
    )
    assert read_lines(tmp_path / "a.smi") == [
        (2, "COc1ccccc1", "methyl phenyl ether"),
        (5, "CC(=O)Nc1ccccc1", "acetanilide"),
    ]
    anisole = Chem.MolFromSmiles("COc1ccccc1")
    anisole.SetProp("_Name", "anisole")
    block = Chem.MolToMolBlock(anisole)
    point = Chem.MolToMolBlock(Chem.MolFromSmiles("[*]c1ccccc1"))
    (tmp_path / "a.sdf").write_text(f"{block}> <id>\n1\n\n$$$$\nspoiled\n\n\nrubbish\n$$$$\n{point}$$$$\n")
    length = len(block.splitlines())
    lines = read_lines(tmp_path / "a.sdf")
    assert [(line.number, line.title) for line in lines] == [
        (1, "anisole"),
        (length + 5, "spoiled"),
        (length + 10, ""),
    ]
    first, spoiled, last = (line.smiles for line in lines)
    assert (first, spoiled) == ("COc1ccccc1", "") and made(last).blocks[0].smiles == "c1ccccc1"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.smi", None, "there is no file"),
        ("empty.smi", b"", "has no molecules"),
        ("remarks.smi", b"# nothing\n\n", "has no molecules"),
        ("empty.sdf", b"\n\n", "has no molecules"),
        ("t.csv", b"a,b\nx,y\n", "no column is named smiles; there are a, b"),
        ("picture.png", b"\x89PNG", "has none of the endings .smi, .txt, .csv, .sdf"),
        ("bytes.smi", b"\xff\xfe\x00", "is no text in UTF-8"),
        ("nul.smi", b"C\0C", "is no text in UTF-8"),
    ],
)
def test_files_that_are_none_are_one_line(name, content, words, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(GenflowError, match=words) as caught:
        read_lines(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


# --- the command, as a user runs it


def test_fragments_become_a_vocabulary_and_policies(tmp_path):
    out = tmp_path / "mine.json"
    command = quickly("vocabulary", FRAGMENTS, "--out", out, folder=tmp_path)
    said = command.said("stdout").splitlines()
    assert said == [
        "14 lines, taken for fragments: 14 give blocks",
        f"12 blocks, joined in 15 ways, in {out}; 2 fragments are other attachments of the same molecules",
        "attachment points to which nothing is joined become hydrogen; 1 block then falls apart (O=[SH2]=O):"
        " to keep such molecules out, add exclude=unstable",
        f"drawn in {tmp_path / 'mine.png'}",
        f'next: genflow generate --env molecule --structure "vocabulary={out},max_blocks=5"',
    ]
    assert command.said("stderr") == ""
    assert len(read_vocabulary(out)) == 12
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.format == "PNG" and picture.width == 6 * 320
    structure = f"vocabulary={out},max_blocks=2,width=16"
    policies = tmp_path / "policies"
    quickly(
        "train-zoo", "--env", "molecule", "--structure", structure, "--num", 1, "--out", policies,
        "-o", "zoo.steps=2", folder=tmp_path / "log",
    )  # fmt: skip
    assert list(policies.rglob("population.json"))


def test_the_next_command_makes_policies_that_can_be_trained_further(tmp_path):
    out = tmp_path / "mine.json"
    quickly("vocabulary", DRUGS, "--out", out, "--max-blocks", 6, "--no-picture", folder=tmp_path)
    structure = f"vocabulary={out},max_blocks=2,reward=qed_sa"
    made_now = quickly(
        "generate", "--env", "molecule", "--structure", structure, "--num", 1, "--out", tmp_path / "mine",
        folder=tmp_path / "log",
    )  # fmt: skip
    assert made_now.said("stdout") == f"1 policy in {tmp_path / 'mine'}\n"
    out.unlink()  # policies keep their blocks
    quickly(
        "finetune", tmp_path / "mine", "--out", tmp_path / "better", "-o", "finetune.steps=2",
        folder=tmp_path / "log2",
    )  # fmt: skip
    assert (tmp_path / "better" / "finetuned" / "population.json").is_file()


def test_json_and_the_table_say_all_that_was_dropped(tmp_path):
    out = tmp_path / "mine.json"
    command = quickly(
        "vocabulary", DRUGS, "--out", out, "--cut", "rings", "--min-count", 2, "--max-blocks", 12, "--json",
        folder=tmp_path,
    )  # fmt: skip
    result = json.loads(command.said("stdout"))
    assert command.said("stderr") == "" and len(read_vocabulary(out)) == result["blocks"] == 12
    with (tmp_path / "mine.dropped.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = dict(line.split(" ", 1)[::-1] for line in DRUGS.read_text().splitlines())
    assert len(names) > 50 and all(names[row["name"]] == row["smiles"] for row in rows)
    left = result["left_out"]
    assert len(rows) == len(result["dropped"]) + left["min_count"] + left["max_blocks"]
    assert [int(row["line"]) for row in rows] == sorted(int(row["line"]) for row in rows)
    reasons = Counter(row["why"].rpartition(" ")[2] for row in rows)
    assert (reasons["--min-count"], reasons["kept"]) == (left["min_count"], left["max_blocks"])


def test_mistakes_are_one_line(tmp_path):
    package = Path(read_vocabulary.__code__.co_filename).parent / "vocabularies" / "mine.json"
    bad = tmp_path / "bad.smi"
    bad.write_text("hello\nCCCC\n")
    oxides = tmp_path / "oxides.smi"
    oxides.write_text("*N=O\n*OC\n*O\n")
    mine = tmp_path / "mine.json"
    for number, (args, words) in enumerate(
        [
            ((tmp_path / "none.smi", "--out", mine), "there is no file"),
            ((FRAGMENTS, "--out", package), "is in the package itself"),
            ((FRAGMENTS, "--out", tmp_path / "mine.txt"), "does not end in .json"),
            ((bad, "--out", mine), "makes no block; why, line by line, is in"),
            ((oxides, "--out", mine), "no two blocks of file"),
        ]
    ):
        line = refused("vocabulary", *args, folder=tmp_path / str(number))
        assert words in line, line
    assert not mine.exists() and not package.exists()


def test_a_picture_marks_the_atoms_that_are_joined():
    from genflow_molecule.vocabulary_file import ATTACHMENT, STEM, _picture

    def counts(*smiles: str) -> dict[str, int]:
        picture = Image.open(io.BytesIO(_picture(made(*smiles).blocks))).convert("RGB")
        colours = {colour: number for number, colour in picture.getcolors(2**24) or []}
        shade = [tuple(round(255 * part) for part in colour) for colour in (ATTACHMENT, STEM)]
        return {"joined": colours.get(shade[0], 0), "open": colours.get(shade[1], 0)}

    one, two = counts("*c1ccccc1"), counts("*c1ccc(*)cc1")
    assert one["joined"] > 100 and one["open"] == 0
    # one disc each, but for smoothed edges
    assert abs(one["joined"] - two["joined"]) < 20 and abs(two["joined"] - two["open"]) < 20


def test_from_python_it_is_what_the_command_writes(tmp_path):
    from genflow_molecule import make_vocabulary

    smiles = ["[*:1]c1ccccc1", "[*]C[*]", "[*]OC", "c1ccccc1"]
    (tmp_path / "mine.smi").write_text("\n".join(smiles))
    out = tmp_path / "command.json"
    quickly("vocabulary", tmp_path / "mine.smi", "--out", out, "--no-picture", folder=tmp_path / "said")
    own = make_vocabulary(tmp_path / "mine.smi", tmp_path / "python.json")
    assert (tmp_path / "python.json").read_text() == (tmp_path / "command.json").read_text()
    assert (tmp_path / "python.png").exists() and not (tmp_path / "command.png").exists()
    assert [each.line for each in own.dropped] == [4] and len(own.blocks) == 3
    table = tmp_path / "python.dropped.csv"
    assert table.read_text().count("\n") == 2
    make_vocabulary(smiles[:3], tmp_path / "python.json", picture=False)
    assert not table.exists()  # nothing was dropped, and what stood there was of another file
    listed = make_vocabulary(smiles, tmp_path / "listed.json", picture=False)
    assert listed.blocks == own.blocks
    with pytest.raises(GenflowError, match="the list of SMILES has no molecules"):
        make_vocabulary([], tmp_path / "no.json")
    mols = [Chem.MolFromSmiles(each) for each in smiles[:2]]
    for source, how, said in (
        (mols, {}, "given as SMILES, not <rdkit.Chem"),
        (smiles, {"cut": "bric"}, "cut='bric' is unknown; did you mean 'brics'"),
        (smiles, {"taken_for": "frags"}, "taken_for='frags' is unknown"),
        (["*CCO", "*c1ccccc1*"], {"min_atoms": 6}, "min_atoms is for molecules that are cut"),
    ):
        with pytest.raises(GenflowError, match=said):
            make_vocabulary(source, tmp_path / "no.json", **how)
