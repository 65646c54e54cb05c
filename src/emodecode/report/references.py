"""The literature that the report may cite, and how citations are written."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """One entry: how it is cited, the full text and the DOI, if it has one."""

    short: str
    text: str
    doi: str = ""


REFERENCES = {
    "abraham2014": Reference(
        "Abraham et al., 2014",
        "Abraham A, Pedregosa F, Eickenberg M, et al. (2014). Machine learning for neuroimaging "
        "with scikit-learn. Frontiers in Neuroinformatics 8:14.",
        "10.3389/fninf.2014.00014",
    ),
    "allefeld2016": Reference(
        "Allefeld et al., 2016",
        "Allefeld C, Görgen K, Haynes JD (2016). Valid population inference for information-based "
        "imaging: from the second-level t-test to prevalence inference. NeuroImage 141:378–392.",
        "10.1016/j.neuroimage.2016.07.040",
    ),
    "andreella2022": Reference(
        "Andreella and Finos, 2022",
        "Andreella A, Finos L (2022). Procrustes analysis for high-dimensional data. Psychometrika "
        "87:1422–1438.",
        "10.1007/s11336-022-09859-5",
    ),
    "benavoli2017": Reference(
        "Benavoli et al., 2017",
        "Benavoli A, Corani G, Demšar J, Zaffalon M (2017). Time for a change: a tutorial for "
        "comparing multiple classifiers through Bayesian analysis. Journal of Machine Learning "
        "Research 18(77):1–36.",
    ),
    "brier1950": Reference(
        "Brier, 1950",
        "Brier GW (1950). Verification of forecasts expressed in terms of probability. Monthly "
        "Weather Review 78:1–3.",
        "10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2",
    ),
    "brodersen2010": Reference(
        "Brodersen et al., 2010",
        "Brodersen KH, Ong CS, Stephan KE, Buhmann JM (2010). The balanced accuracy and its "
        "posterior distribution. International Conference on Pattern Recognition, 3121–3124.",
        "10.1109/ICPR.2010.764",
    ),
    "chen2015": Reference(
        "Chen et al., 2015",
        "Chen PH, Chen J, Yeshurun Y, Hasson U, Haxby J, Ramadge PJ (2015). A reduced-dimension "
        "fMRI shared response model. Advances in Neural Information Processing Systems 28:460–468.",
    ),
    "chen2016": Reference(
        "Chen and Guestrin, 2016",
        "Chen T, Guestrin C (2016). XGBoost: a scalable tree boosting system. KDD '16, 785–794.",
        "10.1145/2939672.2939785",
    ),
    "clarkpolner2017": Reference(
        "Clark-Polner et al., 2017",
        "Clark-Polner E, Johnson TD, Barrett LF (2017). Multivoxel pattern analysis does not "
        "provide evidence to support the existence of basic emotions. Cerebral Cortex "
        "27:1944–1948.",
        "10.1093/cercor/bhw028",
    ),
    "efron1987": Reference(
        "Efron, 1987",
        "Efron B (1987). Better bootstrap confidence intervals. Journal of the American "
        "Statistical Association 82:171–185.",
        "10.1080/01621459.1987.10478410",
    ),
    "fonov2011": Reference(
        "Fonov et al., 2011",
        "Fonov V, Evans AC, Botteron K, et al. (2011). Unbiased average age-appropriate atlases "
        "for pediatric studies. NeuroImage 54:313–327.",
        "10.1016/j.neuroimage.2010.07.033",
    ),
    "guo2017": Reference(
        "Guo et al., 2017",
        "Guo C, Pleiss G, Sun Y, Weinberger KQ (2017). On calibration of modern neural networks. "
        "Proceedings of Machine Learning Research 70:1321–1330.",
    ),
    "guntupalli2016": Reference(
        "Guntupalli et al., 2016",
        "Guntupalli JS, Hanke M, Halchenko YO, Connolly AC, Ramadge PJ, Haxby JV (2016). A model "
        "of representational spaces in human cortex. Cerebral Cortex 26:2919–2934.",
        "10.1093/cercor/bhw068",
    ),
    "haufe2014": Reference(
        "Haufe et al., 2014",
        "Haufe S, Meinecke F, Görgen K, et al. (2014). On the interpretation of weight vectors of "
        "linear models in multivariate neuroimaging. NeuroImage 87:96–110.",
        "10.1016/j.neuroimage.2013.10.067",
    ),
    "holm1979": Reference(
        "Holm, 1979",
        "Holm S (1979). A simple sequentially rejective multiple test procedure. Scandinavian "
        "Journal of Statistics 6:65–70.",
    ),
    "labs2015": Reference(
        "Labs et al., 2015",
        "Labs A, Reich T, Schulenburg H, et al. (2015). Portrayed emotions in the movie “Forrest "
        "Gump”. F1000Research 4:92.",
        "10.12688/f1000research.6230.1",
    ),
    "ledoit2004": Reference(
        "Ledoit and Wolf, 2004",
        "Ledoit O, Wolf M (2004). A well-conditioned estimator for large-dimensional covariance "
        "matrices. Journal of Multivariate Analysis 88:365–411.",
        "10.1016/S0047-259X(03)00096-4",
    ),
    "nadeau2003": Reference(
        "Nadeau and Bengio, 2003",
        "Nadeau C, Bengio Y (2003). Inference for the generalization error. Machine Learning "
        "52:239–281.",
        "10.1023/A:1024068626366",
    ),
    "nichols2002": Reference(
        "Nichols and Holmes, 2002",
        "Nichols TE, Holmes AP (2002). Nonparametric permutation tests for functional "
        "neuroimaging: a primer with examples. Human Brain Mapping 15:1–25.",
        "10.1002/hbm.1058",
    ),
    "ojala2010": Reference(
        "Ojala and Garriga, 2010",
        "Ojala M, Garriga GC (2010). Permutation tests for studying classifier performance. "
        "Journal of Machine Learning Research 11:1833–1863.",
    ),
    "pedregosa2011": Reference(
        "Pedregosa et al., 2011",
        "Pedregosa F, Varoquaux G, Gramfort A, et al. (2011). Scikit-learn: machine learning in "
        "Python. Journal of Machine Learning Research 12:2825–2830.",
    ),
    "phipson2010": Reference(
        "Phipson and Smyth, 2010",
        "Phipson B, Smyth GK (2010). Permutation p-values should never be zero. Statistical "
        "Applications in Genetics and Molecular Biology 9:39.",
        "10.2202/1544-6115.1585",
    ),
    "prichard1994": Reference(
        "Prichard and Theiler, 1994",
        "Prichard D, Theiler J (1994). Generating surrogate data for time series with several "
        "simultaneously measured variables. Physical Review Letters 73:951–954.",
        "10.1103/PhysRevLett.73.951",
    ),
    "rosenblatt2024": Reference(
        "Rosenblatt et al., 2024",
        "Rosenblatt M, Tejavibulya L, Jiang R, Noble S, Scheinost D (2024). Data leakage inflates "
        "prediction performance in connectome-based machine learning models. Nature "
        "Communications 15:1829.",
        "10.1038/s41467-024-46150-w",
    ),
    "schreiber2013": Reference(
        "Schreiber and Krekelberg, 2013",
        "Schreiber K, Krekelberg B (2013). The statistical analysis of multi-voxel patterns in "
        "functional imaging. PLoS ONE 8:e69328.",
        "10.1371/journal.pone.0069328",
    ),
    "varoquaux2017": Reference(
        "Varoquaux et al., 2017",
        "Varoquaux G, Raamana PR, Engemann DA, et al. (2017). Assessing and tuning brain decoders: "
        "cross-validation, caveats, and guidelines. NeuroImage 145:166–179.",
        "10.1016/j.neuroimage.2016.10.038",
    ),
}


def cite(text: str) -> tuple[str, list[str]]:
    """Replace ``[@key]`` and ``[@key; @key]`` by citations; return the keys too."""
    keys: list[str] = []

    def write(match: re.Match) -> str:
        found = re.findall(r"@(\w+)", match[0])
        keys.extend(found)
        return "(" + "; ".join(REFERENCES[key].short for key in found) + ")"

    return re.sub(r"\[@[^\]]+\]", write, text), keys
