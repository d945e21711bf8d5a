"""The grounds of notices, a closed list.

Each has its category in the DSA Transparency Database, so that a statement of reasons needs no other table. In capitals
it is a reason code, so that a notice can be followed under every policy set.
"""

from typing import Final

CATEGORIES: Final = {
    "animal_welfare": "STATEMENT_CATEGORY_ANIMAL_WELFARE",
    "consumer_information": "STATEMENT_CATEGORY_CONSUMER_INFORMATION",
    "copyright": "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "counterfeit": "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "csam": "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "cyber_violence": "STATEMENT_CATEGORY_CYBER_VIOLENCE",
    "cyber_violence_against_women": "STATEMENT_CATEGORY_CYBER_VIOLENCE_AGAINST_WOMEN",
    "data_protection": "STATEMENT_CATEGORY_DATA_PROTECTION_AND_PRIVACY_VIOLATIONS",
    "defamation": "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "elections": "STATEMENT_CATEGORY_NEGATIVE_EFFECTS_ON_CIVIC_DISCOURSE_OR_ELECTIONS",
    "fraud": "STATEMENT_CATEGORY_SCAMS_AND_FRAUD",
    "hate_speech": "STATEMENT_CATEGORY_ILLEGAL_OR_HARMFUL_SPEECH",
    "intellectual_property": "STATEMENT_CATEGORY_INTELLECTUAL_PROPERTY_INFRINGEMENTS",
    "other": "STATEMENT_CATEGORY_NOT_SPECIFIED_NOTICE",
    "prohibited_product": "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "protection_of_minors": "STATEMENT_CATEGORY_PROTECTION_OF_MINORS",
    "public_security": "STATEMENT_CATEGORY_RISK_FOR_PUBLIC_SECURITY",
    "self_harm": "STATEMENT_CATEGORY_SELF_HARM",
    "terms": "STATEMENT_CATEGORY_OTHER_VIOLATION_TC",
    "unsafe_product": "STATEMENT_CATEGORY_UNSAFE_AND_PROHIBITED_PRODUCTS",
    "violence": "STATEMENT_CATEGORY_VIOLENCE",
}
"""The category of each ground."""
