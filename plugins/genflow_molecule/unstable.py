"""Groups that nobody can keep in a bottle: SMARTS of what falls apart, hydrolyses or rearranges.

The list is this project's own, drawn up from textbook chemistry; RDKit's catalogues name what assays or
animals dislike, which is another question.
"""

from __future__ import annotations

#: name -> SMARTS
UNSTABLE = {
    # loses CO2 at room temperature
    "carbamic acid": "[OX2H]C(=[O,S])[#7X3]",
    "thiocarbamic acid": "[SX2H]C(=[O,S])[#7X3]",
    "carbonic acid half ester": "[OX2H]C(=O)[OX2]",
    "beta-keto acid": "[OX2H]C(=O)[CX4][CX3](=O)[#6]",
    # splits into a carbonyl compound and the rest; rings, as in sugars, hold hemiacetals together
    "hemiaminal": "[OX2H][CX4][#7X3]",
    "gem-diol": "[OX2H][CX4;!$(C[CX4]([F,Cl,Br])([F,Cl,Br])[F,Cl,Br])][OX2H]",
    "acyclic hemiacetal": "[OX2H][CX4]!@[OX2H0]",
    "hemithioacetal": "[OX2H][CX4][SX2]",
    "geminal diamine": "[NX3H2][CX4][NX3;!$(N-[C,S]=[O,S,N])]",
    "cyanohydrin": "[OX2H][CX4]C#[NX1]",
    # ionises at once, and alkylates what is near
    "alpha-halogen amine, ether or alcohol": "[NX3,OX2,SX2][CX4][Cl,Br,I]",
    # hydrolyses in moist air
    "acyl halide": "[CX3](=[OX1])[F,Cl,Br,I]",
    "sulfonyl halide": "[SX4](=O)(=O)[Cl,Br,I]",
    "acid anhydride": "[CX3](=O)[OX2][CX3]=O",
    "isocyanate": "[NX2]=[CX2]=[OX1]",
    "ketene": "[CX3]=[CX2]=[OX1]",
    "silicon halide": "[Si][F,Cl,Br,I]",
    "imine without a substituent": "[CX3;!$(C-[#7,#8,#16])]=[NX2H]",
    # weak bonds between atoms with lone pairs
    "peroxide": "[OX2][OX2]",
    "nitrogen-halogen bond": "[#7]-[F,Cl,Br,I]",
    "oxygen- or sulfur(II)-halogen bond": "[OX2,SX2]-[F,Cl,Br,I]",
    "chain of three nitrogens": "[NX3]!@[NX3]!@[NX3]",
    "sulfenic acid": "[OX2H][SX2]",
    "persulfide": "[SX2H][SX2]",
    # what is left of an attachment point to which nothing was joined: air, water or a tautomer takes it
    "hydrogen at sulfonyl or sulfinyl": "[SX3,SX4;!H0]",
    "selenium-hydrogen bond": "[Se;!H0]",
    "phosphorus-hydrogen bond": "[P;!H0]",
    "silicon- or boron-hydrogen bond": "[Si,B;!H0]",
    "thioaldehyde": "[CX3;!H0;!$(C-[#7,#8,#16])]=[SX1,SeX1]",
    # turns into its tautomer, unless a neighbour holds it
    "enol": "[OX2H][CX3;!$(C-C=[O,S,N])]=[CX3;!$(C-[C,S,N]=[O,S,N]);!$(C-C#N)]",
    "enamine with NH2": "[NX3H2][CX3;!$(C-C=[O,S,N])]=[CX3;!$(C-[C,S,N]=[O,S,N]);!$(C-C#N)]",
    "nitroso compound with a hydrogen beside it": "[CX4;!H0][NX2]=[OX1]",
    "diazene": "[NX2H]=[NX2]",
}
