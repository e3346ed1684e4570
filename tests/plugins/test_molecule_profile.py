"""Profiles: desirabilities by their closed form, whole profiles by RDKit alone, and texts that are strict."""

from __future__ import annotations

import itertools
import math

import pytest
from genflow_molecule.descriptors import CATALOGUES, DESCRIPTORS, alerts
from genflow_molecule.profile import Profile
from genflow_molecule.profile_text import Term
from genflow_molecule.scoring import FLOOR
from genflow_molecule.unstable import UNSTABLE
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, Crippen, Descriptors, Lipinski, rdMolDescriptors
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Contrib.SA_Score import sascorer

from genflow import GenflowError, Structure, load_config

DRUGS = {
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "diazepam": "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc21",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "haloperidol": "O=C(CCCN1CCC(O)(c2ccc(Cl)cc2)CC1)c1ccc(F)cc1",
    "sulfanilamide": "Nc1ccc(cc1)S(N)(=O)=O",
    "glucose": "OC[C@H]1OC(O)[C@H](O)[C@@H](O)[C@@H]1O",
    "penicillin G": "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "vitamin C": "OCC(O)C1OC(=O)C(O)=C1O",
}
FULL = (
    "mw:300..450; logp:1..3; tpsa:<90; hbd:<=2; qed:>0.6; sa:<3.5; smarts:!C(=O)[OH]N; alerts:brenk;"
    " similar:0.4..0.7 to {ref}"
)


def profile(text: str) -> Profile:
    return Profile.from_config({"profile": text})


def only(text: str) -> Term:
    (term,) = profile(text).terms
    return term


def text(profile: str) -> str:
    return Structure.parse("molecule", f'small,reward=profile,profile="{profile}"').fields()["profile"]


@pytest.mark.parametrize(
    ("term", "values"),
    [
        ("mw:300..450~50", {250: 0, 275: 0.5, 290: 0.8, 300: 1, 400: 1, 450: 1, 460: 0.8, 500: 0, 900: 0}),
        ("tpsa:<90~40", {-5: 1, 90: 1, 100: 0.75, 120: 0.25, 130: 0, 1e5: 0}),
        ("qed:>0.6~0.4", {0.1: 0, 0.3: 0.25, 0.5: 0.75, 0.6: 1, 1: 1}),
        ("logp:2~1.5", {0.5: 0, 1.25: 0.5, 2: 1, 2.75: 0.5, 4: 0}),
        ("hbd:<3~2", {0: 1, 2: 1, 3: 0.5, 4: 0}),
        ("hbd:<=3~2", {3: 1, 4: 0.5, 5: 0}),
        ("rings:>1~4", {0: 0.5, 1: 0.75, 2: 1}),
        ("!mw:<500", {500: 1, 500.01: 0}),
        ("mw:<500 hard", {500: 1, 500.01: 0}),
        ("alerts:brenk", {0: 1, 1: 0.5, 2: 0}),
        ("smarts:[N;!H0] ~4", {0: 0.75, 1: 1, 5: 1}),
        ("smarts:!C~N ~1", {0: 1, 1: 0}),
    ],
)
def test_a_desirability_is_its_closed_form(term, values):
    wish = only(term)
    assert {value: wish.desirability(value) for value in values} == pytest.approx(values, abs=1e-12)


def independent(mol: Chem.Mol, known: list[str]) -> float:
    """`FULL` by RDKit alone."""

    def within(value, low, high, edge):
        return min(1, max(0, 1 - (low - value) / edge), max(0, 1 - (value - high) / edge))

    params = FilterCatalogParams(FilterCatalogParams.FilterCatalogs.BRENK)
    generator = GetMorganGenerator(radius=2, fpSize=2048)
    near = max(
        DataStructs.TanimotoSimilarity(
            generator.GetFingerprint(mol), generator.GetFingerprint(Chem.MolFromSmiles(each))
        )
        for each in known
    )
    matches = len(mol.GetSubstructMatches(Chem.MolFromSmarts("C(=O)[OH]N")))
    wishes = [
        within(Descriptors.MolWt(mol), 300, 450, 100),
        within(Crippen.MolLogP(mol), 1, 3, 1),
        within(rdMolDescriptors.CalcTPSA(mol), -math.inf, 90, 30),
        within(Lipinski.NumHDonors(mol), -math.inf, 2, 2),
        within(QED.qed(mol), 0.6, math.inf, 0.3),
        within(sascorer.calculateScore(mol), -math.inf, 3.5, 1.5),
        within(matches, -math.inf, 0, 2),
        within(len(FilterCatalog(params).GetMatches(mol)), -math.inf, 0, 2),
        within(near, 0.4, 0.7, 0.2),
    ]
    return math.prod(wishes) ** (1 / len(wishes))


def test_a_whole_profile_is_what_rdkit_alone_says(tmp_path):
    known = [DRUGS["imatinib"].replace("N(C)CC3", "NCC3"), "CN1C(=O)CN=C(c2ccccc2)c2ccccc21"]
    (tmp_path / "ref.smi").write_text("# known\n" + "\n".join(f"{each} name" for each in known) + "\n\n")
    task = Structure.parse(
        "molecule", f'small,reward=profile,profile="{FULL.format(ref=tmp_path / "ref.smi")}"'
    )
    mols = {name: Chem.MolFromSmiles(smiles) for name, smiles in DRUGS.items()}
    mols["close"] = Chem.MolFromSmiles("CN1C(=O)CN=C(c2ccc(CC)cc2)c2cc(Cl)ccc21")
    scores = dict(zip(mols, task.environment.reward.score(list(mols.values())), strict=True))
    assert scores == pytest.approx({name: independent(mol, known) for name, mol in mols.items()}, abs=1e-12)
    assert sum(0 < score < 1 for score in scores.values()) >= 1 and scores["glucose"] == 0


def test_weights_and_hard_filters():
    mol = Chem.MolFromSmiles(DRUGS["ibuprofen"])
    weight, qed = Descriptors.MolWt(mol), QED.qed(mol)
    wished = 1 - (weight - 150) / 100, 1 - (0.9 - qed) / 0.3
    (score,) = profile("mw:<150; qed:>0.9*3; !logp:0..5").score([mol])
    assert score == pytest.approx((wished[0] * wished[1] ** 3) ** 0.25)
    assert profile("mw:<150; !logp:<3").score([mol]) == [0.0]
    assert profile("!logp:<4; !smarts:C(=O)[OH]").score([mol]) == [1.0]


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_a_wider_range_and_a_wider_edge_never_pay_less(name):
    mols = [Chem.MolFromSmiles(smiles) for smiles in DRUGS.values()]
    descriptor = DESCRIPTORS[name]
    values = [float(descriptor.of(mol)) for mol in mols]
    assert all(descriptor.least <= value <= descriptor.most for value in values)
    assert len(set(values)) > 1 or name in ("charge", "stereo", "unstable")
    middle = sorted(values)[5]
    spread = max(values) - min(values) + 1
    scores = []
    for low, high, edge in ((0, 0, 0.2), (0, 0, 1), (0.2, 0.2, 1), (0.2, 1, 1), (1, 1, 1)):
        ends = f"{middle - low * spread:.4f}..{middle + high * spread:.4f}"
        scores.append(profile(f"{name}:{ends}~{edge * spread:.4f}").score(mols))
    for narrow, wide in itertools.pairwise(scores):
        assert all(a <= b + 1e-12 for a, b in zip(narrow, wide, strict=True))
    assert scores[-1] == [1.0] * len(mols)


@pytest.mark.parametrize("catalogue", CATALOGUES)
def test_every_catalogue_counts(catalogue):
    counts = [alerts(catalogue)(Chem.MolFromSmiles(smiles)) for smiles in DRUGS.values()]
    assert all(isinstance(count, int) and count >= 0 for count in counts)
    if catalogue == "unstable":
        assert counts == [0] * len(DRUGS)


KEPT_BY_NOBODY = {
    "carbamic acid": "OC(=O)Nc1ccccc1",
    "thiocarbamic acid": "SC(=S)NCC",
    "carbonic acid half ester": "OC(=O)OCC",
    "beta-keto acid": "OC(=O)CC(=O)C",
    "hemiaminal": "OCN1CCCCC1",
    "gem-diol": "OC(O)c1ccccc1",
    "acyclic hemiacetal": "OCOCC",
    "hemithioacetal": "OCSCC",
    "geminal diamine": "NCN1CCCCC1",
    "cyanohydrin": "OC(C)C#N",
    "alpha-halogen amine, ether or alcohol": "COCCl",
    "acyl halide": "CC(=O)Cl",
    "sulfonyl halide": "CS(=O)(=O)Cl",
    "acid anhydride": "CC(=O)OC(C)=O",
    "isocyanate": "CN=C=O",
    "ketene": "CC=C=O",
    "silicon halide": "C[Si](C)(C)Cl",
    "imine without a substituent": "CC(C)=N",
    "peroxide": "COOC",
    "nitrogen-halogen bond": "CN(C)Cl",
    "oxygen- or sulfur(II)-halogen bond": "COCl",
    "chain of three nitrogens": "CN(C)N(C)N(C)C",
    "sulfenic acid": "CSO",
    "persulfide": "CSS",
    "hydrogen at sulfonyl or sulfinyl": "C[SH](=O)=O",
    "selenium-hydrogen bond": "C[SeH]",
    "phosphorus-hydrogen bond": "CCO[PH](=O)OCC",
    "silicon- or boron-hydrogen bond": "C[SiH](C)C",
    "thioaldehyde": "CC=S",
    "enol": "C=C(O)C",
    "enamine with NH2": "C=C(N)C",
    "nitroso compound with a hydrogen beside it": "CC(C)N=O",
    "diazene": "CN=N",
}


def test_every_unstable_group_is_found_and_what_is_sold_is_not():
    assert KEPT_BY_NOBODY.keys() == UNSTABLE.keys()
    for name, smiles in KEPT_BY_NOBODY.items():
        assert Chem.MolFromSmiles(smiles).HasSubstructMatch(Chem.MolFromSmarts(UNSTABLE[name])), name
        assert alerts("unstable")(Chem.MolFromSmiles(smiles)) >= 1
    sold = ["NC(=O)c1ccccc1", "COC(=O)NC", "O=C1CCCN1", "COC(=O)Cl".replace("Cl", "C"), "CC(=O)CC(=O)OCC"]
    sold += ["OC(O)C(Cl)(Cl)Cl", "NC(N)=O", "CC(O)CN", "N#CCC(=O)N", "c1ccccc1N=Nc1ccccc1", "Oc1ccccc1", "NN"]
    # of attachment points to which nothing was joined: thiols, aldehydes and what has no hydrogen there
    sold += [
        "CCS",
        "O=Cc1ccccc1",
        "C[Si](C)(C)C",
        "OB(O)c1ccccc1",
        "CP(=O)(O)O",
        "CS(C)(=O)=O",
        "CS(=O)(=O)O",
    ]
    sold += ["CS(N)(=O)=O", "CSSC", "C[Se]C", "NC=S", "CC(C)=S", "CC(N)=S", "CS(C)=O", "C[S+](C)C", "c1ccsc1"]
    for smiles in sold:
        assert alerts("unstable")(Chem.MolFromSmiles(smiles)) == 0, smiles


@pytest.mark.parametrize(
    "smiles", ["*S(=O)(=O)*", "*S(*)=O", "*P(*)(=O)OC", "*[Si](*)(C)C", "*B(*)C", "*SS*", "*C(*)=S", "*[Se]*"]
)
def test_an_attachment_point_to_which_nothing_was_joined_is_seen(smiles):
    """Only where both are used is the molecule one that can be kept."""
    ends = {used: Chem.CanonSmiles(smiles.replace("*", "C", used).replace("*", "[H]")) for used in (1, 2)}
    assert {used: alerts("unstable")(Chem.MolFromSmiles(each)) > 0 for used, each in ends.items()} == {
        1: True,
        2: False,
    }


def test_a_file_is_its_molecules(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.smi").write_text("OCC ethanol\nc1ccccc1\n")
    (tmp_path / "b.smi").write_text("C1=CC=CC=C1\nCCO\nCCO again\n")
    one, two = text("similar:>0.4 to a.smi"), text("similar:>=.4 to b.smi")
    assert one == two == "similar:>=0.4 to {CCO c1ccccc1}" == text(one)
    assert text("novel:<.4 to a.smi") == "similar:<=0.4 to {CCO c1ccccc1}"
    task = Structure.parse("molecule", 'small,reward=profile,profile="similar:>0.4 to a.smi"')
    saved = task.to_json()
    (tmp_path / "a.smi").unlink()
    assert Structure.from_json(saved) == task and Structure.parse("molecule", task.name) is task
    saved["structure"]["profile"] = "similar:>0.4 to b.smi"  # as a stranger may write it
    with pytest.raises(GenflowError, match=r"names the file b\.smi, which is not read"):
        Structure.from_json(saved)


def test_equal_profiles_are_one_structure():
    assert (
        text("QED:>.60 ; mw : 3e2 .. 450 ~ 100*1;")
        == "mw:300..450; qed:>=0.6"
        == text("mw:300..450;qed:>=0.6")
    )
    assert text("hbd:<2; !alerts:PAINS; rings:1.5..3") == "!alerts:pains; hbd:<=1; rings:2..3"
    again = "!smarts:!C(=O)[OH]N; mw:<=500~50*2; sa:2; smarts:[C;R]~[#6] ~1 *2"
    assert text(again) == again
    assert text(text(FULL.format(ref="{CCO}"))) == text(FULL.format(ref="{CCO}"))


def test_the_literal_text_works_on_the_command_line_and_in_toml(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ref.smi").write_text(DRUGS["imatinib"])
    own = FULL.format(ref="ref.smi")
    written = f'small,reward=profile,profile="{own}"'
    (tmp_path / "job.toml").write_text(
        f"env = 'molecule'\nstructures = ['{written}', 'small']\n"
        f"test_structures = [{{blocks = 4, max_blocks = 3, reward = 'profile', profile = '{own}'}}]\n"
    )
    config = load_config(tmp_path / "job.toml")
    found = [config.training_structures()[0], *config.unseen_structures([])]
    found += [Structure.parse("molecule", each) for each in (written, written.replace('"', ""))]
    assert len({task.fields()["profile"] for task in found}) == 1
    for broken in (written[:-1], written + '"'):
        with pytest.raises(GenflowError, match=r"a quotation mark is not closed|there is no file"):
            Structure.parse("molecule", broken)


BAD = {
    "": "the profile is empty",
    "'mw:<5; hbd:<3'": r"put double quotation marks \(\"\), no others, around all terms",
    "“mw:<5”": "put double quotation marks",
    "mw": "'mw': is no term; write NAME:RANGE",
    "mwt:<5": "there is no 'mwt'; did you mean 'mw'?",
    "mw:450..300": "'mw:450..300': the range is empty",
    "hbd:1.2..1.8": "the range is empty",
    "qed:>1.5": "no molecule is in this range, because qed is 0..1",
    "mw:<5x": "'<5x' is no range",
    "mw:<1e9": "numbers are at most",
    "mw:<5~0": "~0 must be given once, above 0",
    "mw:<5*2*3": r"\*3 must be given once",
    "!mw:<5~2": "a hard filter has no edge",
    "mw:<5; mw:<=5": "is there twice",
    "smarts:C(": r"'C\(' is no SMARTS",
    "smarts:C N": "then a space before",
    "alerts:brenkk": "there is no catalogue 'brenkk'; did you mean 'brenk'?",
    "similar:>.4": "say what is compared with",
    "similar:>.4 to gone.smi": "there is no file 'gone.smi'",
    "similar:>.4 to {CC xx}": "the molecules in braces: xx is no SMILES",
    "similar:>.4 to {}": "there is no molecule",
    "similar:>.4 to odd.smi": r"file 'odd.smi': line 2 \('C\(C'\) is no SMILES",
    "similar:>.4 to empty.smi": "file 'empty.smi' has no molecules",
    "similar:>.4 to bytes.smi": "file 'bytes.smi' is no text in UTF-8",
    "novel:>.4 to {CC}": "novel is a similarity below something",
    "; ".join(f"mw:<{n}" for n in range(101)): "has 101 terms",
}


@pytest.mark.parametrize("wrong", BAD)
def test_a_mistake_is_one_line_that_names_the_term(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "odd.smi").write_text("CC\nC(C\n")
    (tmp_path / "empty.smi").write_text("")
    (tmp_path / "bytes.smi").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GenflowError, match=BAD[wrong]) as caught:
        text(wrong)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


def test_a_task_pays_its_profile():
    task = Structure.build(
        "molecule",
        {"blocks": (0, 3, 6), "max_blocks": 3, "beta": 2, "reward": "profile", "profile": "!rings:1; logp:2"},
    )
    graph = task.solution.graph
    states = graph.states[graph.can_exit]
    mols = [Chem.MolFromSmiles(smiles) for smiles in task.gallery.names(states)]
    expected = [
        max(FLOOR, (mol.GetRingInfo().NumRings() == 1) * max(0, 1 - abs(Crippen.MolLogP(mol) - 2))) ** 2
        for mol in mols
    ]
    assert task.transitions().log_reward(states).exp().tolist() == pytest.approx(expected)
    assert len({round(each, 9) for each in expected}) > 2
