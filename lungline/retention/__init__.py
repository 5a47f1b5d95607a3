"""How long X-rays are kept: rules by age, legal holds, and erasure everywhere with a proof that names no patient.

subjects (which uploads) -> plan (written down first) -> erasure (place by place, again after a crash) -> proof (signed)
"""
