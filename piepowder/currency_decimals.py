"""The number of decimals of each currency."""

from typing import Final

_DECIMALS: Final = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX", "UYI", "VND"), 0),
    **dict.fromkeys(("VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    **dict.fromkeys(("CLF", "UYW"), 4),
}  # ISO 4217; all others have 2. CLDR's digits differ from it (RSD, ISK, IQD, LBP).


def decimals(currency: str) -> int:
    """The number of decimals of an ISO 4217 currency."""
    return _DECIMALS.get(currency, 2)
