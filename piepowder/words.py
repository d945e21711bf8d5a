"""The sample's words: what is sold, in the languages it is sold in. Tables only."""
# ruff: noqa: E501 - a row of a table is one line

from typing import Final

MARKETS: Final[dict[str, tuple[tuple[str, ...], str]]] = {  # market → languages people list in there, currency
    "DE": (("de", "de", "de", "en", "ar", "ja"), "EUR"),
    "AT": (("de",), "EUR"),
    "FR": (("fr", "fr", "fr", "en", "ar"), "EUR"),
    "BE": (("fr", "nl"), "EUR"),
    "IT": (("it",), "EUR"),
    "ES": (("es",), "EUR"),
    "NL": (("nl", "nl", "en"), "EUR"),
    "PL": (("pl",), "PLN"),
    "SE": (("sv", "sv", "en"), "SEK"),
    "IE": (("en",), "EUR"),
    "US": (("en", "en", "en", "en", "es", "ja", "zh"), "USD"),
    "CA": (("en", "en", "fr"), "CAD"),
}
EU: Final = ("DE", "DE", "DE", "FR", "FR", "IT", "ES", "NL", "PL", "SE", "IE", "AT", "BE")
US: Final = ("US", "US", "US", "US", "CA")

LANGUAGES: Final = ("en", "de", "fr", "es", "it", "nl", "pl", "sv", "ja", "zh", "ar")

# category, brands, price range in whole euros, name in each of LANGUAGES
PRODUCTS: Final = (
    ("Home/Kitchen", ("Kessel & Co", "Bramble", "Nordhus"), (19, 89), (
        "Stainless steel kettle", "Wasserkocher aus Edelstahl", "Bouilloire en acier inoxydable", "Hervidor de acero inoxidable",
        "Bollitore in acciaio inox", "Roestvrijstalen waterkoker", "Czajnik ze stali nierdzewnej", "Vattenkokare i rostfritt stål",
        "ステンレス電気ケトル", "不锈钢电热水壶", "غلاية كهربائية من الستانلس ستيل",
    )),
    ("Home/Kitchen", ("Ferrocast", "Nordhus"), (25, 120), (
        "Cast iron pan", "Gusseiserne Pfanne", "Poêle en fonte", "Sartén de hierro fundido", "Padella in ghisa",
        "Gietijzeren koekenpan", "Patelnia żeliwna", "Stekpanna i gjutjärn", "鋳鉄フライパン", "铸铁煎锅", "مقلاة من الحديد الزهر",
    )),
    ("Home/Lighting", ("Lumio", "Hellweg"), (12, 75), (
        "LED desk lamp", "LED-Schreibtischlampe", "Lampe de bureau LED", "Lámpara de escritorio LED", "Lampada da scrivania LED",
        "LED-bureaulamp", "Lampka biurkowa LED", "Skrivbordslampa med LED", "LEDデスクライト", "LED台灯", "مصباح مكتب LED",
    )),
    ("Electronics/Audio", ("Sonara", "Blaufeld", "Kite"), (29, 249), (
        "Wireless headphones", "Kabellose Kopfhörer", "Casque sans fil", "Auriculares inalámbricos", "Cuffie senza fili",
        "Draadloze koptelefoon", "Słuchawki bezprzewodowe", "Trådlösa hörlurar", "ワイヤレスヘッドホン", "无线耳机", "سماعات لاسلكية",
    )),
    ("Electronics/Phones", ("Kite", "Orbiq"), (149, 899), (
        "Smartphone 128 GB", "Smartphone 128 GB", "Smartphone 128 Go", "Smartphone 128 GB", "Smartphone 128 GB",
        "Smartphone 128 GB", "Smartfon 128 GB", "Smarttelefon 128 GB", "スマートフォン 128GB", "智能手机 128GB", "هاتف ذكي 128 جيجابايت",
    )),
    ("Electronics/Accessories", ("Voltara", "Kite"), (9, 39), (
        "USB-C charger 65 W", "USB-C-Ladegerät 65 W", "Chargeur USB-C 65 W", "Cargador USB-C 65 W", "Caricabatterie USB-C 65 W",
        "USB-C-oplader 65 W", "Ładowarka USB-C 65 W", "USB-C-laddare 65 W", "USB-C充電器 65W", "USB-C充电器 65W", "شاحن USB-C بقدرة 65 واط",
    )),
    ("Toys/Wooden", ("Holzwurm", "Petit Bois", "Larch"), (8, 59), (
        "Wooden train set", "Holzeisenbahn", "Petit train en bois", "Tren de madera", "Trenino di legno",
        "Houten treinset", "Drewniana kolejka", "Tågset i trä", "木製の電車セット", "木制火车玩具", "طقم قطار خشبي",
    )),
    ("Toys/Games", ("Spielgrund", "Larch"), (15, 55), (
        "Board game for the family", "Brettspiel für die Familie", "Jeu de société en famille", "Juego de mesa familiar",
        "Gioco da tavolo per famiglie", "Bordspel voor het gezin", "Gra planszowa dla rodziny", "Sällskapsspel för familjen",
        "家族で遊ぶボードゲーム", "家庭桌游", "لعبة لوحية عائلية",
    )),
    ("Garden/Tools", ("Ferrocast", "Grünhand"), (14, 69), (
        "Pruning shears", "Gartenschere", "Sécateur", "Tijeras de podar", "Cesoie da giardino",
        "Snoeischaar", "Sekator ogrodowy", "Sekatör", "剪定ばさみ", "园艺剪刀", "مقص تقليم",
    )),
    ("Fashion/Bags", ("Maroq", "Stadtgang"), (35, 180), (
        "Leather backpack", "Lederrucksack", "Sac à dos en cuir", "Mochila de cuero", "Zaino in pelle",
        "Leren rugzak", "Plecak skórzany", "Ryggsäck i läder", "レザーリュック", "真皮双肩包", "حقيبة ظهر جلدية",
    )),
    ("Fashion/Shoes", ("Stadtgang", "Corsa"), (39, 160), (
        "Running shoes", "Laufschuhe", "Chaussures de course", "Zapatillas para correr", "Scarpe da corsa",
        "Hardloopschoenen", "Buty do biegania", "Löparskor", "ランニングシューズ", "跑步鞋", "حذاء للجري",
    )),
    ("Books/Cooking", ("Verlag am Markt", "Éditions du Pont"), (12, 42), (
        "Cookbook of the seasons", "Kochbuch der Jahreszeiten", "Livre de cuisine des saisons", "Libro de cocina de las estaciones",
        "Ricettario delle stagioni", "Kookboek van de seizoenen", "Książka kucharska na cztery pory roku", "Kokbok för årstiderna",
        "季節の料理本", "四季食谱", "كتاب طبخ المواسم",
    )),
    ("Sport/Bicycles", ("Corsa", "Velomont"), (18, 95), (
        "Bicycle lock", "Fahrradschloss", "Antivol pour vélo", "Candado para bicicleta", "Lucchetto per bicicletta",
        "Fietsslot", "Zapięcie rowerowe", "Cykellås", "自転車ロック", "自行车锁", "قفل دراجة",
    )),
    ("Baby/Care", ("Petit Bois", "Wiegenlied"), (9, 65), (
        "Cotton baby blanket", "Babydecke aus Baumwolle", "Couverture bébé en coton", "Manta de algodón para bebé",
        "Copertina in cotone", "Katoenen babydeken", "Kocyk bawełniany", "Babyfilt i bomull", "綿のベビーブランケット",
        "纯棉婴儿毯", "بطانية أطفال قطنية",
    )),
)  # fmt: skip

SENTENCES: Final[dict[str, tuple[str, ...]]] = {
    "en": ("New, in its original box.", "Ships within two days.", "Two years of warranty.", "Returns are free for 30 days.", "Made of recycled material.", "Used twice, works as new."),
    "de": ("Neu, in Originalverpackung.", "Versand innerhalb von zwei Tagen.", "Zwei Jahre Garantie.", "Kostenlose Rückgabe innerhalb von 30 Tagen.", "Aus recyceltem Material.", "Zweimal benutzt, wie neu."),
    "fr": ("Neuf, dans son emballage d’origine.", "Expédié sous deux jours.", "Garantie deux ans.", "Retour gratuit sous 30 jours.", "En matière recyclée.", "Utilisé deux fois, comme neuf."),
    "es": ("Nuevo, en su caja original.", "Se envía en dos días.", "Dos años de garantía.", "Devolución gratuita en 30 días.", "De material reciclado.", "Usado dos veces, como nuevo."),
    "it": ("Nuovo, nella confezione originale.", "Spedito entro due giorni.", "Due anni di garanzia.", "Reso gratuito entro 30 giorni.", "In materiale riciclato.", "Usato due volte, come nuovo."),
    "nl": ("Nieuw, in de originele doos.", "Binnen twee dagen verzonden.", "Twee jaar garantie.", "Gratis retour binnen 30 dagen.", "Van gerecycled materiaal.", "Twee keer gebruikt, als nieuw."),
    "pl": ("Nowy, w oryginalnym opakowaniu.", "Wysyłka w ciągu dwóch dni.", "Dwa lata gwarancji.", "Bezpłatny zwrot w ciągu 30 dni.", "Z materiału z recyklingu.", "Użyty dwa razy, jak nowy."),
    "sv": ("Ny, i originalförpackning.", "Skickas inom två dagar.", "Två års garanti.", "Fri retur inom 30 dagar.", "Av återvunnet material.", "Använd två gånger, som ny."),
    "ja": ("新品、元箱付き。", "2日以内に発送します。", "2年保証。", "30日以内の返品は無料です。", "再生素材を使用。", "2回使用、新品同様。"),
    "zh": ("全新，原包装。", "两天内发货。", "质保两年。", "30天内免费退货。", "采用再生材料。", "用过两次，几乎全新。"),
    "ar": ("جديد في علبته الأصلية.", "يُشحن خلال يومين.", "ضمان لمدة سنتين.", "إرجاع مجاني خلال 30 يومًا.", "مصنوع من مواد معاد تدويرها.", "استُعمل مرتين، كالجديد."),
}  # fmt: skip

REVIEWS: Final[dict[str, tuple[str, ...]]] = {
    "en": ("Arrived quickly and works as described.", "The colour differs a little from the picture.", "Good value, would buy again."),
    "de": ("Kam schnell an und funktioniert wie beschrieben.", "Die Farbe weicht etwas vom Bild ab.", "Gutes Preis-Leistungs-Verhältnis."),
    "fr": ("Arrivé vite, conforme à la description.", "La couleur diffère un peu de la photo.", "Bon rapport qualité-prix."),
    "es": ("Llegó rápido y funciona como se describe.", "El color difiere un poco de la foto.", "Buena relación calidad-precio."),
    "it": ("Arrivato in fretta, come descritto.", "Il colore è un po' diverso dalla foto.", "Buon rapporto qualità-prezzo."),
    "nl": ("Snel geleverd en werkt zoals beschreven.", "De kleur wijkt iets af van de foto.", "Goede prijs-kwaliteit."),
    "pl": ("Dotarło szybko, zgodne z opisem.", "Kolor nieco inny niż na zdjęciu.", "Dobry stosunek jakości do ceny."),
    "sv": ("Kom snabbt och fungerar som beskrivet.", "Färgen skiljer sig lite från bilden.", "Prisvärd."),
    "ja": ("すぐに届き、説明通りです。", "写真と少し色が違います。", "コストパフォーマンスが良いです。"),
    "zh": ("到货很快，与描述一致。", "颜色和图片略有不同。", "性价比高。"),
    "ar": ("وصل بسرعة ويعمل كما هو موصوف.", "اللون يختلف قليلاً عن الصورة.", "قيمة جيدة مقابل السعر."),
}  # fmt: skip

SHOPS: Final = (
    "Alte Mühle", "Bazar du Pont", "Casa Verde", "Dock 9", "Emporio Sole", "Feldhaus", "Grand Stall", "Harbour Goods", "Il Banco",
    "Jardin & Fils", "Kontor Nord", "La Lonja", "Market Row", "Nowy Kram", "Old Fair", "Plaza Mayor", "Quay Traders", "Rynek 7",
    "Stadtmarkt", "Torget", "Up & Down", "Villa Nova", "West Stand", "Yorick & Sons", "桜商店", "سوق المدينة",
)  # fmt: skip

# what is planted
WEAPON: Final = {
    "en": "Switchblade knife, opens in a flash",
    "de": "Springmesser, öffnet blitzschnell",
    "fr": "Couteau à cran d'arrêt",
    "es": "Navaja automática",
    "it": "Coltello a scatto",
    "pl": "Nóż sprężynowy",
}
COUNTERFEIT: Final = {
    "en": "AAA replica, 1:1 copy of the designer bag",
    "de": "Replik 1:1, kein Original",
    "fr": "Réplique AAA, copie 1:1",
    "es": "Réplica AAA, copia 1:1",
    "it": "Replica perfetta, 1:1",
    "pl": "Replika AAA, kopia 1:1",
}
MEDICINE: Final = {
    "en": "Oxycodone without prescription",
    "de": "Rezeptfreies Oxycodon",
    "fr": "Antibiotiques sans ordonnance",
    "es": "Tramadol sin receta médica",
    "it": "Tramadol senza ricetta medica",
    "pl": "Tramadol bez recepty lekarskiej",
}
RECALLED: Final = {
    "en": "Hoverboard, two motors, barely used",
    "de": "Hoverboard, zwei Motoren",
    "fr": "Hoverboard, deux moteurs",
    "es": "Hoverboard, dos motores",
}
CONTACT: Final = {
    "en": "Contact me on WhatsApp for a better price",
    "de": "Besserer Preis nur per WhatsApp",
    "fr": "Contactez-moi sur WhatsApp",
    "es": "Contácteme por WhatsApp",
    "it": "Contattami su WhatsApp",
}
SPY_CAMERA: Final = {
    "en": "Alarm clock with hidden camera",
    "de": "Wecker mit versteckter Kamera: versteckte Kamera, 4K",
    "fr": "Réveil avec caméra cachée",
    "es": "Despertador con cámara espía",
}
REPLICA: Final = {
    "en": "Replica of a sailing ship, for the shelf",
    "de": "Replik eines Segelschiffs, fürs Regal",
    "fr": "Réplique d'un voilier, pour l'étagère",
}
LASER: Final = {
    "en": "Presenter with laser pointer",
    "de": "Presenter mit Laserpointer",
    "fr": "Télécommande avec pointeur laser",
    "es": "Mando con puntero láser",
}
